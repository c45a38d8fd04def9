/* What the bench guest has for all its jobs: ports, words of the command line, and one virtio device. */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define QUEUE_MAX 256u
#define NEXT 1
#define WRITE 2

/* virtio 1.3, 2.7 */
struct descriptor {
    u64 address;
    u32 len;
    u16 flags, next;
};

struct available {
    u16 flags, index, ring[QUEUE_MAX], used_event;
};

struct used {
    u16 flags, index;
    struct {
        u32 id, len;
    } ring[QUEUE_MAX];
    u16 available_event;
};

struct queue {
    struct descriptor descriptors[QUEUE_MAX] __attribute__((aligned(16)));
    struct available available __attribute__((aligned(4)));
    struct used used __attribute__((aligned(4)));
    volatile u32 *notify;
    u32 number;
    u32 size;
    u16 offered, seen;
};

extern struct queue queues[3];

/* Finds the first device of a kind, agrees on those of `wanted` that it offers and that it must have, and
   starts it with `count` queues. The rings lie in `queues`, whose descriptors are the caller's to fill. */
void start_device(u32 kind, u64 wanted, u32 count);

/* Offers the next `count` entries of the available ring, which are there already, by one store of the index, and kicks
   unless the device says it need not be. */
void offer(struct queue *queue, u16 count);

/* How many entries of the used ring are new; the device is told to interrupt for none of them. */
u16 fresh(struct queue *queue);

/* Waits until everything offered is used. */
void finish(struct queue *queue);

/* Bytes of device memory to the guest's own use, from 16 MiB on. */
#define BUFFERS 0x1000000ul

/* The number after `name` in the command line; `name` ends with "=". Without it, the guest gives up. */
u64 word(const char *name);
int has_word(const char *name);

/* "R" on the serial line; waits for a byte. What is measured is from there to done(). */
void ready(void);

/* The clock stops; "E" on the serial line. */
void done(void);

/* The numbers, and the end of the line. */
void report(u64 requests, u64 wrong);

/* Says why on the serial line, and ends the guest. */
__attribute__((noreturn)) void give_up(const char *why);

void *memset(void *to, int value, u64 len);

void block(int is_write);
void transmit(void);
void receive(void);
void serve(void);

/* Ends the machine by a power-off. */
void switch_off(void);
