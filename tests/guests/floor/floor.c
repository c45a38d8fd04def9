/*
 * The floor: the least that a process must do to run a PVH guest with a serial port. No library, no option, no check that
 * the outcome does not depend on; what `vmm` needs beyond it is what `vmm` costs.
 *
 * usage: floor KERNEL [MIB]      64-bit ELF file; 128 MiB of memory or that many, one vCPU, serial port to standard output
 *
 * When the guest has halted it waits for the end of its standard input. It fails with the number of the step that did.
 */

#include <asm/unistd.h>
#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/mman.h>

#define MEMORY_MIB 128ul
#define SERIAL 0x3f8
#define LINE_STATUS (SERIAL + 5)
#define READY_TO_SEND 0x60
#define PHYS32_ENTRY 18
#define START_INFO 0x6000
#define CPUID_ENTRIES 256

static long call(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static void leave(int status)
{
    for (;;)
        call(__NR_exit_group, status, 0, 0, 0, 0, 0);
}

static int step;

static long must(long result)
{
    step++;
    if (result < 0)
        leave(step);
    return result;
}

static long ioctl(long fd, unsigned long request, const void *argument)
{
    return must(call(__NR_ioctl, fd, (long)request, (long)argument, 0, 0, 0));
}

static void *map(unsigned long size, int flags, long fd)
{
    return (void *)must(call(__NR_mmap, 0, (long)size, PROT_READ | PROT_WRITE, flags, fd, 0));
}

static void read_at(long fd, void *to, unsigned long len, unsigned long offset)
{
    must(call(__NR_pread64, fd, (long)to, (long)len, (long)offset, 0, 0));
}

/* Loads the segments and gives the entry of the PVH note. */
static unsigned load(const char *path, char *memory)
{
    static char start[4096];
    unsigned entry = 0;
    long fd = must(call(__NR_open, (long)path, O_RDONLY | O_CLOEXEC, 0, 0, 0, 0));
    read_at(fd, start, sizeof start, 0);
    const Elf64_Ehdr *header = (const void *)start;
    const Elf64_Phdr *segment = (const void *)(start + header->e_phoff);
    for (const Elf64_Phdr *end = segment + header->e_phnum; segment < end; segment++)
        if (segment->p_type == PT_LOAD)
            read_at(fd, memory + segment->p_paddr, segment->p_filesz, segment->p_offset);
        else if (segment->p_type == PT_NOTE) {
            const Elf64_Nhdr *note = (const void *)(memory + segment->p_paddr);
            if (note->n_type == PHYS32_ENTRY)
                entry = *(const unsigned *)((const char *)(note + 1) + (note->n_namesz + 3) / 4 * 4);
        }
    return entry;
}

/* Flat protected mode, %ebx at the start info, everything else zero: what PVH asks for. */
static void enter_protected_mode(long vcpu, unsigned entry)
{
    static struct kvm_sregs special;
    static struct kvm_regs registers;
    const struct kvm_segment code = {.limit = ~0u, .selector = 8, .type = 11, .present = 1, .db = 1, .s = 1, .g = 1};
    const struct kvm_segment data = {.limit = ~0u, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1};
    const struct kvm_segment task = {.limit = 0x67, .selector = 24, .type = 11, .present = 1};
    ioctl(vcpu, KVM_GET_SREGS, &special);
    special.cs = code;
    special.ds = special.es = special.fs = special.gs = special.ss = data;
    special.tr = task;
    special.cr0 = 1;
    ioctl(vcpu, KVM_SET_SREGS, &special);
    registers.rip = entry;
    registers.rbx = START_INFO;
    registers.rflags = 2;
    ioctl(vcpu, KVM_SET_REGS, &registers);
}

static void serve_port(struct kvm_run *run)
{
    char *data = (char *)run + run->io.data_offset;
    if (run->io.direction == KVM_EXIT_IO_OUT && run->io.port == SERIAL)
        must(call(__NR_write, 1, (long)data, run->io.size * run->io.count, 0, 0, 0));
    else if (run->io.direction == KVM_EXIT_IO_IN && run->io.port == LINE_STATUS)
        *data = READY_TO_SEND;
}

static void wait_and_leave(void)
{
    char byte;
    while (must(call(__NR_read, 0, (long)&byte, 1, 0, 0, 0)) > 0)
        ;
    leave(0);
}

static unsigned long number(const char *text)
{
    unsigned long value = 0;
    while (*text)
        value = value * 10 + (unsigned long)(*text++ - '0');
    return value;
}

static void run_kernel(const char *path, unsigned long memory_size)
{
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[CPUID_ENTRIES];
    } cpuid;
    struct kvm_userspace_memory_region slot = {.memory_size = memory_size};

    long kvm = must(call(__NR_open, (long)"/dev/kvm", O_RDWR | O_CLOEXEC, 0, 0, 0, 0));
    char *memory = map(memory_size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    unsigned entry = load(path, memory);

    long vm = ioctl(kvm, KVM_CREATE_VM, 0);
    slot.userspace_addr = (unsigned long)memory;
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot);
    long vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    cpuid.head.nent = CPUID_ENTRIES;
    ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
    ioctl(vcpu, KVM_SET_CPUID2, &cpuid);
    long size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = map((unsigned long)size, MAP_SHARED, vcpu);
    enter_protected_mode(vcpu, entry);
    for (;;) {
        ioctl(vcpu, KVM_RUN, 0);
        if (run->exit_reason == KVM_EXIT_IO)
            serve_port(run);
        else if (run->exit_reason == KVM_EXIT_HLT)
            wait_and_leave();
        else
            leave(100 + (int)run->exit_reason);
    }
}

/* The kernel leaves the argument count on the stack, and the arguments behind it. */
__attribute__((naked, noreturn, used)) void _start(void)
{
    __asm__("mov %rsp, %rdi; and $-16, %rsp; call start");
}

__attribute__((noreturn, used)) void start(const long *stack)
{
    unsigned long mib = stack[0] > 2 ? number((const char *)stack[3]) : MEMORY_MIB;
    run_kernel((const char *)stack[2], mib << 20);
    __builtin_unreachable();
}
