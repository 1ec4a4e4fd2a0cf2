"""A userspace fq_codel: flow queues under CoDel, a scheduler across them, a shaper, and flow keys
(docs/queueing.md).

Pure: no I/O, no clock, no randomness of its own. Times are integers of nanoseconds and passed in.
"""

from meshnode.queueing.codel import Codel, CodelParams
from meshnode.queueing.fifo import Fifo
from meshnode.queueing.flow_hash import CONTROL_TAG, SPARSE_TAG, UNTAGGED, FlowTagger, flow_key
from meshnode.queueing.fq_codel import FqCodel, FqCodelParams
from meshnode.queueing.memory_pool import MemoryPool
from meshnode.queueing.packet_queue import ITEM_OVERHEAD, DropReason, PacketQueue, QueueStats
from meshnode.queueing.scheduler import Lane, Scheduler
from meshnode.queueing.shaper import OVERHEAD_IPV4, OVERHEAD_IPV6, TokenBucket

__all__ = [
    "CONTROL_TAG",
    "ITEM_OVERHEAD",
    "OVERHEAD_IPV4",
    "OVERHEAD_IPV6",
    "SPARSE_TAG",
    "UNTAGGED",
    "Codel",
    "CodelParams",
    "DropReason",
    "Fifo",
    "FlowTagger",
    "FqCodel",
    "FqCodelParams",
    "Lane",
    "MemoryPool",
    "PacketQueue",
    "QueueStats",
    "Scheduler",
    "TokenBucket",
    "flow_key",
]
