/*
 * The puppet: a guest of two kilobytes that does what the serial line tells it, so that a test on the host
 * can be the driver of any device, or the enemy of it.
 *
 * It does nothing by itself, knows no device but the serial port, and trusts its master: a wrong command
 * has no defined meaning. One command is a line: a letter, then hexadecimal numbers with one space before
 * each. WIDTH is 1, 2 or 4 bytes (8 too in the 64-bit puppet, for r and w). Only the commands that ask
 * something answer, so that many can be sent ahead.
 *
 *   r WIDTH ADDRESS               reads memory or a register; answers the value
 *   w WIDTH ADDRESS VALUE         writes memory or a register
 *   i WIDTH PORT                  reads a port; answers the value
 *   o WIDTH PORT VALUE            writes a port
 *   I WIDTH PORT COUNT ADDRESS    rep ins
 *   O WIDTH PORT COUNT ADDRESS    rep outs
 *   m ADDRESS BYTES               stores bytes, two digits each
 *   d ADDRESS COUNT               answers that many bytes, two digits each
 *   M INDEX                       reads a model-specific register; answers its low 32 bits
 *   f SEED COUNT                  storm: random accesses of registers and ports; answers "0"
 *   p COUNT ADDRESS               reads a byte of each of so many pages; answers their sum
 *   P COUNT ADDRESS               writes a byte of each; answers "0"
 *   t                             triple fault
 *   h                             halts for good
 *   s                             spins for good
 *
 * At the start it prints "puppet: " and its command line, and obeys two words of that: "exit=N" writes N
 * (hexadecimal) to the debug-exit port at once, "mute" prints nothing before.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long word;

#define SERIAL 0x3f8
#define DEBUG_EXIT 0xf4

#define PAGE 0x1000

#define VIRTIO_START 0xc0001000u
#define VIRTIO_WINDOWS 20u

static inline void out1(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out2(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void out4(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }

static inline u8 in1(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u16 in2(u16 port)
{
    u16 value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline u32 in4(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

/* A serial port of a virtual machine is always ready to send, so nothing is asked before. */
static void put(char c) { out1(SERIAL, (u8)c); }

static void print(const char *text)
{
    while (*text)
        put(*text++);
}

/* An empty port reads as 0, which no command contains: to ask for the line's status first would double the exits. */
static char get(void)
{
    u8 c;
    while (!(c = in1(SERIAL)))
        ;
    return (char)c;
}

static void print_digit(u8 value) { put("0123456789abcdef"[value & 15]); }

static void print_byte(u8 value)
{
    print_digit(value >> 4);
    print_digit(value);
}

static void answer(word value)
{
    int shift = 8 * sizeof(word) - 4;
    while (shift > 0 && !(value >> shift & 15))
        shift -= 4;
    for (; shift >= 0; shift -= 4)
        print_digit((u8)(value >> shift));
    put('\n');
}

/* -1 where c is no digit. */
static int digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Reads a number and the one character after it. */
static word number(void)
{
    word value = 0;
    for (int d; (d = digit(get())) >= 0;)
        value = value << 4 | (word)d;
    return value;
}

static void store_bytes(u8 *to)
{
    for (int high; (high = digit(get())) >= 0;)
        *to++ = (u8)(high << 4 | digit(get()));
}

static word read_address(int width, word address)
{
    switch (width) {
    case 1: return *(volatile u8 *)address;
    case 2: return *(volatile u16 *)address;
    case 4: return *(volatile u32 *)address;
    default: return *(volatile word *)address;
    }
}

static void write_address(int width, word address, word value)
{
    switch (width) {
    case 1: *(volatile u8 *)address = (u8)value; break;
    case 2: *(volatile u16 *)address = (u16)value; break;
    case 4: *(volatile u32 *)address = (u32)value; break;
    default: *(volatile word *)address = value;
    }
}

static word read_port(int width, u16 port)
{
    return width == 1 ? in1(port) : width == 2 ? in2(port) : in4(port);
}

static void write_port(int width, u16 port, word value)
{
    if (width == 1)
        out1(port, (u8)value);
    else if (width == 2)
        out2(port, (u16)value);
    else
        out4(port, (u32)value);
}

static void read_ports(int width, u16 port, word count, word to)
{
    if (width == 1)
        __asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(port) : "memory");
    else if (width == 2)
        __asm__ volatile("rep insw" : "+D"(to), "+c"(count) : "d"(port) : "memory");
    else
        __asm__ volatile("rep insl" : "+D"(to), "+c"(count) : "d"(port) : "memory");
}

static void write_ports(int width, u16 port, word count, word from)
{
    if (width == 1)
        __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(port) : "memory");
    else if (width == 2)
        __asm__ volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(port) : "memory");
    else
        __asm__ volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(port) : "memory");
}

/* Ports that end the machine or that the storm's own results travel on. */
static int is_spared(u16 port)
{
    return port - 0xf1u < 4 || port - 0x61u < 4 || port - 0x502u < 4 || port - 0x5fdu < 0x20 || port - 0x3f5u < 0xb
        || port - 0xcf5u < 5;
}

/* Interrupt controllers are in the kernel, so only the windows of devices and all ports are hit. */
static void storm(u32 state, u32 count)
{
    while (count--) {
        /* Marsaglia's xorshift32 */
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        int width = 1 << (state & 3) % 3;
        u32 window = (state >> 2) % VIRTIO_WINDOWS * 0x1000;
        /* mostly the registers, sometimes anything of the window */
        u32 offset = state >> 8 & (state & 0x70 ? 0x1ff : 0xfff);
        word address = VIRTIO_START + window + offset;
        u16 port = (u16)(state >> 11);
        switch (state >> 29) {
        case 0:
            if (!is_spared(port))
                write_port(width, port, state);
            break;
        case 1:
            if (!is_spared(port))
                read_port(width, port);
            break;
        case 2:
        case 3:
        case 4: read_address(width, address); break;
        case 5: write_address(4, address & ~3u, state & 0xf); break;
        default: write_address(width, address, state);
        }
    }
    answer(0);
}

/* In a tight loop, so that what it takes is what the pages take. */
static word read_pages(word count, volatile u8 *at)
{
    word sum = 0;
    for (; count; count--, at += PAGE)
        sum += *at;
    return sum;
}

static word write_pages(word count, volatile u8 *at)
{
    for (; count; count--, at += PAGE)
        *at = 1;
    return 0;
}

static u32 read_msr(u32 index)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return low;
}

static void triple_fault(void)
{
    static const struct {
        u16 limit;
        u32 base[2];
    } __attribute__((packed)) no_table = {0, {0, 0}};
    __asm__ volatile("lidt %0; ud2" : : "m"(no_table));
}

static void obey(char command)
{
    int width;
    word first, second, third;
    if (command != 't' && command != 'h' && command != 's' && command != '\n')
        get();
    switch (command) {
    case 'r':
        width = (int)number();
        answer(read_address(width, number()));
        break;
    case 'w':
        width = (int)number();
        first = number();
        write_address(width, first, number());
        break;
    case 'i':
        width = (int)number();
        answer(read_port(width, (u16)number()));
        break;
    case 'o':
        width = (int)number();
        first = number();
        write_port(width, (u16)first, number());
        break;
    case 'I':
    case 'O':
        width = (int)number();
        first = number();
        second = number();
        third = number();
        if (command == 'I')
            read_ports(width, (u16)first, second, third);
        else
            write_ports(width, (u16)first, second, third);
        break;
    case 'm': store_bytes((u8 *)number()); break;
    case 'd':
        first = number();
        for (second = number(); second; second--)
            print_byte(*(volatile u8 *)first++);
        put('\n');
        break;
    case 'M': answer(read_msr((u32)number())); break;
    case 'f':
        first = number();
        storm((u32)first, (u32)number());
        break;
    case 'p':
        first = number();
        answer(read_pages(first, (volatile u8 *)number()));
        break;
    case 'P':
        first = number();
        answer(write_pages(first, (volatile u8 *)number()));
        break;
    case 't': triple_fault(); break;
    case 'h':
        for (;;)
            __asm__ volatile("cli; hlt");
    case 's':
        for (;;)
            ;
    }
}

/* The text after `word` in the command line; 0 where it does not occur. */
static const char *after(const char *line, const char *word)
{
    for (; *line; line++) {
        const char *at = line, *wanted = word;
        while (*wanted && *at == *wanted)
            at++, wanted++;
        if (!*wanted)
            return at;
    }
    return 0;
}

void puppet(const char *command_line)
{
    const char *status = after(command_line, "exit=");
    if (!after(command_line, "mute")) {
        print("puppet: ");
        print(command_line);
        put('\n');
    }
    if (status) {
        int value = 0;
        for (int d; (d = digit(*status)) >= 0; status++)
            value = value << 4 | d;
        out1(DEBUG_EXIT, (u8)value);
    }
    for (;;)
        obey(get());
}
