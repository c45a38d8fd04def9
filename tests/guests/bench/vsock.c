/*
 * An agent behind the socket device, with "serve" on the command line: it says READY=1 to port `port` of the host, then
 * answers on every port. A line that it gets comes back after "did ", and the connection ends; the line "off" switches
 * the machine off.
 */

#include "bench.h"

#define DEVICE 19
#define RECEIVE 0
#define SEND 1
#define HOST 2
#define OWN_PORT 1000
/* Of each buffer. */
#define ROOM 4096u
#define BUFFERS_OFFERED 64u

enum { REQUEST = 1, RESPONSE = 2, RESET = 3, SHUTDOWN = 4, READ_WRITE = 5 };

/* virtio 1.3, 5.10.6 */
struct packet {
    u64 src_cid, dst_cid;
    u32 src_port, dst_port, len;
    u16 type, op;
    u32 flags, buf_alloc, fwd_cnt;
    char data[];
} __attribute__((packed));

static struct packet *const out = (void *)(BUFFERS + BUFFERS_OFFERED * ROOM);

static void send(u16 op, u32 own_port, u32 port, u32 flags, u32 len)
{
    struct queue *queue = &queues[SEND];
    out->src_cid = word("cid=");
    out->dst_cid = HOST;
    out->src_port = own_port;
    out->dst_port = port;
    out->len = len;
    out->type = 1;
    out->op = op;
    out->flags = flags;
    out->buf_alloc = 1 << 16;
    out->fwd_cnt = 0;
    queue->available.ring[queue->offered % queue->size] = 0;
    queue->descriptors[0] = (struct descriptor){(u64)out, sizeof *out + len, 0, 0};
    offer(queue, 1);
    finish(queue);
}

static u32 put(u32 at, const char *text)
{
    while (*text)
        out->data[at++] = *text++;
    return at;
}

static int is_off(const struct packet *in)
{
    return in->len >= 3 && in->data[0] == 'o' && in->data[1] == 'f' && in->data[2] == 'f';
}

static void answer(const struct packet *in)
{
    u32 own = in->dst_port, port = in->src_port;
    switch (in->op) {
    case REQUEST: send(RESPONSE, own, port, 0, 0); break;
    case RESPONSE:
        send(READ_WRITE, own, port, 0, put(0, "READY=1"));
        send(SHUTDOWN, own, port, 3, 0);
        break;
    case READ_WRITE:
        if (is_off(in))
            switch_off();
        u32 at = put(0, "did ");
        for (u32 i = 0; i < in->len && at < ROOM / 2; i++)
            out->data[at++] = in->data[i];
        send(READ_WRITE, own, port, 0, at);
        send(SHUTDOWN, own, port, 3, 0);
        break;
    case SHUTDOWN: send(RESET, own, port, 0, 0); break;
    }
}

void serve(void)
{
    struct queue *queue = &queues[RECEIVE];
    start_device(DEVICE, 0, 3);
    for (u16 i = 0; i < BUFFERS_OFFERED; i++) {
        queue->descriptors[i] = (struct descriptor){BUFFERS + i * ROOM, ROOM, WRITE, 0};
        queue->available.ring[i] = i;
    }
    offer(queue, BUFFERS_OFFERED);
    send(REQUEST, OWN_PORT, (u32)word("port="), 0, 0);
    for (;;) {
        for (u16 count = fresh(queue); count; count--) {
            u16 id = (u16)queue->used.ring[queue->seen++ % queue->size].id;
            answer((void *)(BUFFERS + id * ROOM));
            queue->available.ring[queue->offered % queue->size] = id;
            offer(queue, 1);
        }
        __asm__ volatile("pause");
    }
}
