/*
 * Frames of `size` bytes: "send" sends `batches` times `depth` (a power of two, at most 128) of them, "receive" takes
 * `frames` of them, `rounds` times. With "gso", they are TCP segments of 1448 bytes in one piece.
 */

#include "bench.h"

#define DEVICE 1
#define CSUM (1ul << 0)
#define GUEST_CSUM (1ul << 1)
#define GUEST_TSO4 (1ul << 7)
#define HOST_TSO4 (1ul << 11)
#define MERGEABLE (1ul << 15)
#define FEATURES (CSUM | GUEST_CSUM | GUEST_TSO4 | HOST_TSO4 | MERGEABLE)

#define RECEIVE 0
#define TRANSMIT 1
#define HEADER 12u
#define ETHERNET 14u
#define IP 20u
#define TCP 20u
#define SEGMENT 1448
#define LOCAL_EXPERIMENT 0x88b5
#define IPV4 0x0800
/* Room for the header and the largest frame of IPv4. */
#define BUFFER 0x11000ul
/* Of one receive buffer: a small frame, or a page as Linux has them. */
#define RECEIVE_BUFFER 4096u

/* virtio 1.3, 5.1.6 */
struct header {
    u8 flags, gso_type;
    u16 header_len, gso_size, checksum_start, checksum_offset, buffers;
};

static void big_endian(u8 *to, u32 value)
{
    to[0] = (u8)(value >> 8);
    to[1] = (u8)value;
}

static void fill_frame(u8 *buffer, u32 size, int is_gso)
{
    static const u8 addresses[12] = {2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1};
    struct header *header = (void *)buffer;
    u8 *frame = buffer + HEADER, *ip = frame + ETHERNET, *tcp = ip + IP;
    memset(buffer, 0, HEADER + size);
    for (u32 i = 0; i < sizeof addresses; i++)
        frame[i] = addresses[i];
    big_endian(frame + 12, is_gso ? IPV4 : LOCAL_EXPERIMENT);
    if (!is_gso)
        return;
    *header = (struct header){1, 1, ETHERNET + IP + TCP, SEGMENT, ETHERNET + IP, 16, 0};
    ip[0] = 0x45;
    big_endian(ip + 2, size - ETHERNET);
    ip[8] = 64;
    ip[9] = 6;
    tcp[12] = 0x50;
}

void transmit(void)
{
    u64 batches = word("batches=");
    u32 size = (u32)word("size="), depth = (u32)word("depth=");
    struct queue *queue = &queues[TRANSMIT];
    for (u32 slot = 0; slot < depth; slot++) {
        u8 *buffer = (u8 *)BUFFERS + slot * BUFFER;
        fill_frame(buffer, size, has_word("gso"));
        queue->descriptors[slot] = (struct descriptor){(u64)buffer, HEADER + size, 0, 0};
    }
    for (u32 i = 0; i < QUEUE_MAX; i++)
        queue->available.ring[i] = (u16)(i % depth);
    start_device(DEVICE, FEATURES, 2);
    ready();
    for (u64 batch = 0; batch < batches; batch++) {
        offer(queue, (u16)depth);
        finish(queue);
    }
    done();
    report(batches * depth, 0);
}

static struct receiver {
    struct queue *queue;
    /* Buffers that are not offered; the ring names them already, behind those that are. */
    u16 held;
    /* How many of them may be. */
    u64 allowed;
    /* Buffers of the present frame that are still to come. */
    u16 rest;
    u64 frames, bytes;
} receiver;

static void take_frames(struct receiver *to)
{
    struct queue *queue = to->queue;
    for (u16 count = fresh(queue); count; count--, queue->seen++, to->held++) {
        u32 id = queue->used.ring[queue->seen % QUEUE_MAX].id;
        to->bytes += queue->used.ring[queue->seen % QUEUE_MAX].len;
        if (!to->rest) {
            to->rest = ((struct header *)queue->descriptors[id].address)->buffers;
            to->bytes -= HEADER;
        }
        to->frames += --to->rest == 0;
        queue->available.ring[(u16)(queue->offered + to->held) % QUEUE_MAX] = (u16)id;
    }
}

/* Offers what may be offered when it is at least `least`, or the last of it. */
static void give_buffers(struct receiver *to, u16 least)
{
    u16 count = to->held < to->allowed ? to->held : (u16)to->allowed;
    if (!count || (count < least && count < to->allowed))
        return;
    offer(to->queue, count);
    to->held -= count;
    to->allowed -= count;
}

/*
 * In each round all frames are there before the first buffer is, but for the spare ones: a host may want room for the
 * largest frame before it takes any.
 */
void receive(void)
{
    const u16 refill = QUEUE_MAX / 4, spare = 32;
    u64 frames = word("frames="), rounds = word("rounds=");
    u32 size = (u32)word("size="), buffers = (HEADER + size + RECEIVE_BUFFER - 1) / RECEIVE_BUFFER;
    struct queue *queue = &queues[RECEIVE];
    receiver = (struct receiver){.queue = queue, .held = QUEUE_MAX, .allowed = spare};
    for (u16 i = 0; i < QUEUE_MAX; i++) {
        u64 buffer = BUFFERS + i * RECEIVE_BUFFER;
        queue->descriptors[i] = (struct descriptor){buffer, RECEIVE_BUFFER, WRITE, 0};
        queue->available.ring[i] = i;
    }
    memset((void *)BUFFERS, 0, QUEUE_MAX * RECEIVE_BUFFER);
    start_device(DEVICE, FEATURES, 2);
    give_buffers(&receiver, 1);
    for (u64 round = 1; round <= rounds; round++) {
        ready();
        receiver.allowed += frames * buffers;
        while (receiver.frames < round * frames) {
            take_frames(&receiver);
            give_buffers(&receiver, refill);
            __asm__ volatile("pause");
        }
        done();
        give_buffers(&receiver, 1);
    }
    /* Of the frames that are missing bytes nothing is known but how many bytes. */
    u64 wanted = rounds * frames * size;
    report(receiver.frames, receiver.bytes > wanted ? receiver.bytes - wanted : wanted - receiver.bytes);
}
