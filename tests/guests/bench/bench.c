/*
 * The bench guest: drives one virtio device as hard as it can, from rings that are laid out before the clock starts.
 *
 * The command line says what to do: "read", "write", "send" or "receive" (or "serve", which is no benchmark), and the words that the job wants, in decimal.
 * It prints "R" when it is ready, waits for any byte, does its job, and prints "E", once or several times; then how many
 * requests were done, how many of them went wrong, and how many ticks of the processor's clock all of it took. Bytes on
 * the serial line may wait for a busy host, the clock does not. It polls for completions and wants no interrupt. It knows the places where
 * vmm and QEMU's microvm have their devices, and looks at both.
 */

#include "bench.h"

#define SERIAL 0x3f8
#define LINE_STATUS (SERIAL + 5)
#define DATA_READY 1

#define MAGIC 0x74726976u
#define VERSION_1 (1ul << 32)
#define EVENT_IDX (1ul << 29)
/* The kind of device whose queues may be shorter. */
#define SOCKETS 19

/* Registers of a virtio-mmio device (virtio 1.3, 4.2.2), as indices of words. */
enum {
    MAGIC_VALUE = 0x00 / 4,
    DEVICE_ID = 0x08 / 4,
    OFFERED = 0x10 / 4,
    OFFERED_SELECT = 0x14 / 4,
    ACCEPTED = 0x20 / 4,
    ACCEPTED_SELECT = 0x24 / 4,
    QUEUE_SELECT = 0x30 / 4,
    QUEUE_SIZE_MAX = 0x34 / 4,
    QUEUE_SIZE = 0x38 / 4,
    QUEUE_READY = 0x44 / 4,
    QUEUE_NOTIFY = 0x50 / 4,
    STATUS = 0x70 / 4,
    QUEUE_DESCRIPTORS = 0x80 / 4,
    QUEUE_DRIVER = 0x90 / 4,
    QUEUE_DEVICE = 0xa0 / 4,
};

/* Bits of the status register. */
enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8 };

struct queue queues[3] __attribute__((aligned(4096)));
static const char *command_line;
static int has_event_index;
static u64 started, ticks;

static inline void out(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static inline u8 in(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static u64 clock(void)
{
    u32 low, high;
    __asm__ volatile("lfence; rdtsc; lfence" : "=a"(low), "=d"(high) : : "memory");
    return (u64)high << 32 | low;
}

static void print(const char *text)
{
    while (*text)
        out(SERIAL, (u8)*text++);
}

static void print_number(u64 value)
{
    char digits[24], *at = digits + sizeof digits - 1;
    *at = 0;
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    print(at);
}

/* Until somebody kills the machine, whose end would else mix with what is counted. */
__attribute__((noreturn)) static void rest(void)
{
    for (;;)
        __asm__ volatile("pause");
}

void give_up(const char *why)
{
    print("! ");
    print(why);
    print("\n");
    rest();
}

/* The text after `name` at the start of a word of the command line; 0 where it does not occur. */
static const char *find_word(const char *name)
{
    for (const char *at = command_line; *at; at++) {
        const char *wanted = name, *have = at;
        if (at > command_line && at[-1] != ' ')
            continue;
        while (*wanted && *have == *wanted)
            have++, wanted++;
        if (!*wanted)
            return have;
    }
    return 0;
}

int has_word(const char *name) { return find_word(name) != 0; }

u64 word(const char *name)
{
    const char *at = find_word(name);
    u64 value = 0;
    if (!at)
        give_up(name);
    for (; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (u64)(*at - '0');
    return value;
}

void ready(void)
{
    print("R");
    while (!(in(LINE_STATUS) & DATA_READY))
        __asm__ volatile("pause");
    in(SERIAL);
    started = clock();
}

void done(void)
{
    ticks += clock() - started;
    print("E");
}

void report(u64 requests, u64 wrong)
{
    print(" ");
    print_number(requests);
    print(" ");
    print_number(wrong);
    print(" ");
    print_number(ticks);
    print("\n");
}

/* SLP_TYP 5 and SLP_EN, in the sleep control register of vmm. */
void switch_off(void) { out(0x600, 0x34); }

static volatile u32 *find_device(u32 kind)
{
    static const struct {
        u64 start, step;
        u32 count;
    } places[] = {{0xc0001000, 0x1000, 20}, {0xfeb00000, 0x200, 24}};
    for (u32 place = 0; place < sizeof places / sizeof *places; place++)
        for (u32 i = 0; i < places[place].count; i++) {
            volatile u32 *device = (void *)(places[place].start + i * places[place].step);
            if (device[MAGIC_VALUE] != MAGIC)
                break;
            if (device[DEVICE_ID] == kind)
                return device;
        }
    give_up("no such device");
}

static u64 offered(volatile u32 *device)
{
    device[OFFERED_SELECT] = 1;
    u64 high = device[OFFERED];
    device[OFFERED_SELECT] = 0;
    return high << 32 | device[OFFERED];
}

static void set_address(volatile u32 *registers, const void *address)
{
    registers[0] = (u32)(u64)address;
    registers[1] = (u32)((u64)address >> 32);
}

void start_device(u32 kind, u64 wanted, u32 count)
{
    volatile u32 *device = find_device(kind);
    device[STATUS] = 0;
    device[STATUS] = ACKNOWLEDGE;
    device[STATUS] = ACKNOWLEDGE | DRIVER;
    /* The indices of events stand behind rings of the full size only. */
    u64 features = offered(device) & (wanted | VERSION_1 | (kind == SOCKETS ? 0 : EVENT_IDX));
    if ((features & (wanted | VERSION_1)) != (wanted | VERSION_1))
        give_up("the device lacks a feature");
    has_event_index = (features & EVENT_IDX) != 0;
    device[ACCEPTED_SELECT] = 0;
    device[ACCEPTED] = (u32)features;
    device[ACCEPTED_SELECT] = 1;
    device[ACCEPTED] = (u32)(features >> 32);
    device[STATUS] = ACKNOWLEDGE | DRIVER | FEATURES_OK;
    if (!(device[STATUS] & FEATURES_OK))
        give_up("the device refuses its features");
    for (u32 i = 0; i < count; i++) {
        struct queue *queue = &queues[i];
        device[QUEUE_SELECT] = i;
        u32 size = device[QUEUE_SIZE_MAX] < QUEUE_MAX ? device[QUEUE_SIZE_MAX] : QUEUE_MAX;
        if (kind != SOCKETS && size < QUEUE_MAX)
            give_up("the device has no queue of 256");
        queue->size = size;
        device[QUEUE_SIZE] = size;
        set_address(device + QUEUE_DESCRIPTORS, queue->descriptors);
        set_address(device + QUEUE_DRIVER, &queue->available);
        set_address(device + QUEUE_DEVICE, &queue->used);
        device[QUEUE_READY] = 1;
        queue->notify = device + QUEUE_NOTIFY;
        queue->number = i;
        queue->available.flags = !has_event_index;
        queue->available.used_event = 0x8000;
    }
    device[STATUS] = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
}

void offer(struct queue *queue, u16 count)
{
    volatile struct used *used = &queue->used;
    u16 old = queue->offered, new = (u16)(old + count);
    queue->offered = new;
    __atomic_store_n(&queue->available.index, new, __ATOMIC_RELEASE);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    int is_wanted = has_event_index ? (u16)(new - used->available_event - 1) < (u16)(new - old) : !(used->flags & 1);
    if (is_wanted)
        *queue->notify = queue->number;
}

u16 fresh(struct queue *queue)
{
    u16 count = (u16)(__atomic_load_n(&queue->used.index, __ATOMIC_ACQUIRE) - queue->seen);
    /* Half of all indices away, so that it is never reached. */
    if (count)
        *(volatile u16 *)&queue->available.used_event = (u16)(queue->seen + count + 0x8000);
    return count;
}

void finish(struct queue *queue)
{
    while (queue->seen != queue->offered) {
        queue->seen = (u16)(queue->seen + fresh(queue));
        __asm__ volatile("pause");
    }
}

void bench(const char *words)
{
    command_line = words;
    if (has_word("read"))
        block(0);
    else if (has_word("write"))
        block(1);
    else if (has_word("send"))
        transmit();
    else if (has_word("receive"))
        receive();
    else if (has_word("serve"))
        serve();
    else
        give_up("read, write, send, receive or serve?");
    rest();
}

/* The compiler may ask for it. */
void *memset(void *to, int value, u64 len)
{
    void *at = to;
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(len) : "a"(value) : "memory");
    return to;
}
