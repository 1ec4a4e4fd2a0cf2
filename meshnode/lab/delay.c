/* A wire with a length: frames go from one interface to another, both ways, after a delay.
 *
 * usage: delay LEFT RIGHT SEED
 *
 * Each line on standard input, "DELAY_US JITTER_US LOSS_PPM DUPLICATE_PPM LIMIT_BYTES", sets the wire (both directions
 * alike) for the frames that come in from then on; a line that is empty sets nothing. Each is answered by one line of
 * counters: forwarded, lost, duplicated, overflowed, errors. The first line starts the wire; end of file ends it, so it
 * cannot outlive the lab.
 *
 * Packet sockets with PACKET_VNET_HDR carry superpackets and unfinished checksums whole, as a veth pair does. A
 * direction is a FIFO, so jitter never reorders. The namespace must have no addresses, or it would answer ARP itself.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif

enum { LARGEST_FRAME = 1 << 18, FRAMES_PER_TURN = 64, SOCKET_BUFFER = 32 << 20 };
static const int64_t SECOND = 1000000000;

struct frame {
    struct frame *next;
    int64_t due; /* CLOCK_MONOTONIC, nanoseconds */
    size_t size; /* virtio header and frame */
    unsigned char bytes[];
};

struct direction {
    int in, out;
    struct frame *first, **end;
    int64_t last_due;
    size_t held; /* bytes in the FIFO */
};

static struct { int64_t delay, jitter; uint32_t loss, duplicate; size_t limit; } wire;
static struct { unsigned long long forwarded, lost, duplicated, overflowed, errors; } count;
static uint64_t random_state;

static void die(const char *what)
{
    fprintf(stderr, "delay: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t monotonic(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND + t.tv_nsec;
}

/* SplitMix64 (Steele, Lea and Flood 2014): small, seedable, and good enough to lose packets by. */
static uint64_t draw(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static int happens(uint32_t parts_per_million)
{
    return parts_per_million && draw() % 1000000 < parts_per_million;
}

static int open_port(const char *name)
{
    int on = 1, size = SOCKET_BUFFER;
    int fd = socket(AF_PACKET, SOCK_RAW, 0); /* protocol 0: nothing arrives before bind() names the interface */
    if (fd < 0)
        die("socket");
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) < 0)
        die("PACKET_VNET_HDR");
    if (setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) < 0)
        die("PACKET_IGNORE_OUTGOING");
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0) /* refused in a user namespace */
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETH_P_ALL),
        .sll_ifindex = (int)if_nametoindex(name),
    };
    if (address.sll_ifindex == 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
        die(name);
    return fd;
}

static void enqueue(struct direction *d, const unsigned char *bytes, size_t size, int64_t due)
{
    struct frame *f = d->held + size > wire.limit ? NULL : malloc(sizeof *f + size);
    if (!f) {
        count.overflowed++;
        return;
    }
    f->next = NULL;
    f->due = due;
    f->size = size;
    memcpy(f->bytes, bytes, size);
    *d->end = f;
    d->end = &f->next;
    d->held += size;
}

/* Take in what has arrived, at most a turn's worth, so that what is due elsewhere is not kept waiting. */
static void absorb(struct direction *d)
{
    static unsigned char buffer[LARGEST_FRAME];
    for (int i = 0; i < FRAMES_PER_TURN; i++) {
        ssize_t size = recv(d->in, buffer, sizeof buffer, MSG_DONTWAIT | MSG_TRUNC);
        if (size < 0) {
            /* ENETDOWN tells once that the interface went down: frames come again when it is back */
            if (errno != EAGAIN && errno != EINTR)
                count.errors++;
            return;
        }
        if ((size_t)size > sizeof buffer) {
            count.errors++;
            continue;
        }
        if (happens(wire.loss)) {
            count.lost++;
            continue;
        }
        int64_t due = monotonic() + wire.delay + (wire.jitter ? (int64_t)(draw() % (uint64_t)wire.jitter) : 0);
        if (due < d->last_due)
            due = d->last_due;
        d->last_due = due;
        enqueue(d, buffer, (size_t)size, due);
        if (happens(wire.duplicate)) {
            count.duplicated++;
            enqueue(d, buffer, (size_t)size, due);
        }
    }
}

/* Send what is due, at most a turn's worth, and return when the next frame is, or -1 when there is none. */
static int64_t release(struct direction *d)
{
    for (int i = 0; d->first; i++) {
        struct frame *f = d->first;
        if (i == FRAMES_PER_TURN || f->due > monotonic())
            return f->due;
        if (send(d->out, f->bytes, f->size, 0) < 0)
            count.errors++; /* ENETDOWN, ENOBUFS, EMSGSIZE: a wire loses the frame and goes on */
        else
            count.forwarded++;
        d->first = f->next;
        if (!d->first)
            d->end = &d->first;
        d->held -= f->size;
        free(f);
    }
    return -1;
}

/* Obey and answer one line; 0 at the end of the file. */
static int obey(void)
{
    char line[256];
    ssize_t size = read(STDIN_FILENO, line, sizeof line - 1);
    if (size <= 0)
        return 0;
    line[size] = '\0';
    long long delay, jitter, loss, duplicate, limit;
    if (sscanf(line, "%lld %lld %lld %lld %lld", &delay, &jitter, &loss, &duplicate, &limit) == 5) {
        wire.delay = delay * 1000;
        wire.jitter = jitter * 1000;
        wire.loss = (uint32_t)loss;
        wire.duplicate = (uint32_t)duplicate;
        wire.limit = (size_t)limit;
    }
    printf("%llu %llu %llu %llu %llu\n", count.forwarded, count.lost, count.duplicated, count.overflowed, count.errors);
    return fflush(stdout) == 0;
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: delay LEFT RIGHT SEED\n");
        return 2;
    }
    int left = open_port(argv[1]), right = open_port(argv[2]);
    struct direction there = {.in = left, .out = right}, back = {.in = right, .out = left};
    there.end = &there.first;
    back.end = &back.first;
    random_state = strtoull(argv[3], NULL, 10);
    prctl(PR_SET_TIMERSLACK, 1UL);
    setpriority(PRIO_PROCESS, 0, -15); /* a wire does not wait for a CPU; without the privilege it does */
    if (!obey())
        return 0;
    for (;;) {
        int64_t one = release(&there), other = release(&back);
        int64_t next = one < 0 || (other >= 0 && other < one) ? other : one;
        int64_t wait = next < 0 ? -1 : next - monotonic();
        struct timespec timeout = {wait > 0 ? wait / SECOND : 0, wait > 0 ? wait % SECOND : 0};
        struct pollfd ready[] = {{left, POLLIN, 0}, {right, POLLIN, 0}, {STDIN_FILENO, POLLIN, 0}};
        if (ppoll(ready, 3, next < 0 ? NULL : &timeout, NULL) < 0)
            continue; /* EINTR */
        if (ready[0].revents)
            absorb(&there);
        if (ready[1].revents)
            absorb(&back);
        if (ready[2].revents && !obey())
            return 0;
    }
}
