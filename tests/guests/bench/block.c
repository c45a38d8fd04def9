/*
 * Reads or writes of `size` bytes at places without a pattern, `depth` (a power of two, at most 64) at a time, `batches`
 * times, on a disk of `blocks` such pieces.
 *
 * Each 4 KiB of the disk begin with their own number, which reads check and writes write.
 */

#include "bench.h"

#define DEVICE 2
/* The host may answer a write before it is on the disk, as for any driver that can flush. */
#define FLUSH (1ul << 9)
#define MARKED 4096u
#define SECTOR 512u
#define DEPTH_MAX 64

/* virtio 1.3, 5.2.6 */
struct header {
    u32 type, reserved;
    u64 sector;
};

static struct header headers[DEPTH_MAX];
static volatile u8 statuses[DEPTH_MAX];
static u32 size, depth;

static u8 *buffer(u32 slot) { return (u8 *)BUFFERS + slot * size; }

static void lay_out(int is_write)
{
    struct queue *queue = &queues[0];
    for (u32 slot = 0; slot < depth; slot++) {
        struct descriptor *chain = &queue->descriptors[3 * slot];
        u16 first = (u16)(3 * slot);
        headers[slot].type = is_write ? 1 : 0;
        chain[0] = (struct descriptor){(u64)&headers[slot], sizeof headers[slot], NEXT, (u16)(first + 1)};
        chain[1] = (struct descriptor){(u64)buffer(slot), size, is_write ? NEXT : NEXT | WRITE, (u16)(first + 2)};
        chain[2] = (struct descriptor){(u64)&statuses[slot], 1, WRITE, 0};
    }
    for (u32 i = 0; i < QUEUE_MAX; i++)
        queue->available.ring[i] = (u16)(3 * (i % depth));
    /* The memory is there before the clock starts. */
    memset(buffer(0), 0x5a, (u64)depth * size);
}

/* Knuth's linear congruential generator, of which the upper bits are the better ones. */
static u64 random_below(u64 bound)
{
    static u64 state = 1;
    state = state * 6364136223846793005ul + 1442695040888963407ul;
    return (state >> 33) % bound;
}

static void aim(u64 blocks, int is_write)
{
    for (u32 slot = 0; slot < depth; slot++) {
        u64 place = random_below(blocks) * size;
        headers[slot].sector = place / SECTOR;
        statuses[slot] = 0xff;
        for (u32 at = 0; is_write && at < size; at += MARKED)
            *(u64 *)(buffer(slot) + at) = (place + at) / MARKED;
    }
}

static u64 count_wrong(int is_write)
{
    u64 wrong = 0;
    for (u32 slot = 0; slot < depth; slot++) {
        int is_wrong = statuses[slot] != 0;
        for (u32 at = 0; !is_write && at < size; at += MARKED)
            is_wrong |= *(volatile u64 *)(buffer(slot) + at) != headers[slot].sector * SECTOR / MARKED + at / MARKED;
        wrong += (u64)is_wrong;
    }
    return wrong;
}

void block(int is_write)
{
    u64 batches = word("batches="), blocks = word("blocks="), wrong = 0;
    size = (u32)word("size=");
    depth = (u32)word("depth=");
    lay_out(is_write);
    start_device(DEVICE, FLUSH, 1);
    ready();
    for (u64 batch = 0; batch < batches; batch++) {
        aim(blocks, is_write);
        offer(&queues[0], (u16)depth);
        finish(&queues[0]);
        wrong += count_wrong(is_write);
    }
    done();
    report(batches * depth, wrong);
}
