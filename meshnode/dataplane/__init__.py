"""The packet mill: batches of packets in, batches of sealed datagrams out, and back. No I/O, no policy."""
