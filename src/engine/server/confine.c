/*
 * Capabilities and the filter of system calls (confine.h).
 *
 * The filter is a classic BPF program (seccomp(2)): the architecture, the
 * list, then the few calls whose arguments matter.
 */
#include "server/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#include "base/trace.h"

static vd_error
refused(const char *what)
{
    int error_number = errno;
    vd_trace(VD_TRACE_ATTACH, "server: %s: %s", what, strerror(error_number));
    return vd_error_from_errno(error_number);
}

/* -- capabilities -- */

/* EINVAL: past the last one that this kernel has.  EPERM: without
 * CAP_SETPCAP, and then nothing can be gained from the set either, since no
 * new privileges are to be had. */
static void
drop_bounding_set(void)
{
    for (unsigned long capability = 0; capability < 64; capability++) {
        if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
            return;
        }
    }
}

vd_error
vd_confine_privileges(void)
{
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    static const struct __user_cap_data_struct none[2];
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return refused("PR_SET_NO_NEW_PRIVS");
    }
    drop_bounding_set();
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    if (syscall(SYS_capset, &header, none) < 0) {
        return refused("capset");
    }
    return ERROR_SUCCESS;
}

/* -- system calls -- */

#if defined(__x86_64__)
#define FILTER_ARCH AUDIT_ARCH_X86_64
#define FILTER_FOREIGN 0x40000000u /* x32 has the same architecture */
#elif defined(__aarch64__)
#define FILTER_ARCH AUDIT_ARCH_AARCH64
#define FILTER_FOREIGN 0xFFFFFFFFu
#endif

#ifdef FILTER_ARCH

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "the low half of an argument comes first");

static const uint32_t allowed[] = {
    /* the requests, their answers, the log, traces */
    SYS_read,
    SYS_readv,
    SYS_write,
    SYS_writev,
    /* the images */
    SYS_pread64,
    SYS_preadv,
    SYS_pwrite64,
    SYS_pwritev,
    SYS_fdatasync,
    SYS_fsync,
    SYS_fallocate,
    SYS_ftruncate,
    SYS_lseek,
    SYS_fstat,
    SYS_close,
    /* memory; see also `conditional` */
    SYS_brk,
    SYS_munmap,
    SYS_mremap,
    SYS_madvise,
    /* upkeep; see also `conditional` */
    SYS_accept4,
    SYS_recvmsg,
#ifdef SYS_poll
    SYS_poll,
#endif
    SYS_ppoll,
    /* threads, and the end */
    SYS_futex,
    SYS_set_robust_list,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_restart_syscall,
    SYS_sched_yield,
    SYS_exit,
    SYS_exit_group,
    /* what tells nothing that matters */
    SYS_getpid,
    SYS_gettid,
    SYS_clock_gettime,
    SYS_clock_nanosleep,
    SYS_getrandom,
#ifdef SYS_rseq
    SYS_rseq,
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    SYS_sigaltstack, /* their threads do not end without */
#endif
};

/* Allowed if the argument, seen through the mask, is the value; of several
 * for one call, one is enough. */
static const struct condition {
    uint32_t number;
    unsigned argument;
    uint64_t mask;
    uint64_t value;
} conditional[] = {
    {SYS_mmap, 2, PROT_EXEC, 0},
    {SYS_mprotect, 2, PROT_EXEC, 0},
    /* What fstat is in newer C libraries; never by path alone. */
    {SYS_newfstatat, 3, AT_EMPTY_PATH, AT_EMPTY_PATH},
    /* To whom the socket is connected, and nobody else. */
    {SYS_sendto, 4, UINT64_MAX, 0},
    /* Who that is. */
    {SYS_getsockopt, 2, UINT32_MAX, SO_PEERCRED},
    /* How a file is open, and the locks of an image. */
    {SYS_fcntl, 1, UINT32_MAX, F_GETFL},
    {SYS_fcntl, 1, UINT32_MAX, F_SETFL},
    {SYS_fcntl, 1, UINT32_MAX, F_DUPFD_CLOEXEC},
    {SYS_fcntl, 1, UINT32_MAX, F_OFD_SETLK},
    {SYS_fcntl, 1, UINT32_MAX, F_OFD_GETLK},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CONDITION_LENGTH 9
#define FILTER_LENGTH                                                         \
    (7 + 2 * COUNT(allowed) + CONDITION_LENGTH * COUNT(conditional))

struct program {
    struct sock_filter code[FILTER_LENGTH];
    unsigned short length;
};

static void
emit(struct program *program, unsigned code, uint32_t value, unsigned if_true,
     unsigned if_false)
{
    program->code[program->length++] = (struct sock_filter){
        .code = (uint16_t)code,
        .jt = (uint8_t)if_true,
        .jf = (uint8_t)if_false,
        .k = value,
    };
}

static void
emit_load(struct program *program, size_t offset)
{
    emit(program, BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset, 0, 0);
}

static void
emit_return(struct program *program, uint32_t action)
{
    emit(program, BPF_RET | BPF_K, action, 0, 0);
}

/* One half of an argument: goes on if it fits, else skips `miss`. */
static void
emit_half(struct program *program, size_t offset, uint64_t mask,
          uint64_t value, unsigned miss)
{
    emit_load(program, offset);
    emit(program, BPF_ALU | BPF_AND | BPF_K, (uint32_t)mask, 0, 0);
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)value, 0, miss);
}

/* Goes on behind it if it does not fit. */
static void
emit_condition(struct program *program, const struct condition *condition)
{
    size_t low = offsetof(struct seccomp_data, args) +
                 condition->argument * sizeof(uint64_t);
    emit_load(program, offsetof(struct seccomp_data, nr));
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, condition->number, 0,
         CONDITION_LENGTH - 2);
    emit_half(program, low, condition->mask, condition->value, 4);
    emit_half(program, low + sizeof(uint32_t), condition->mask >> 32,
              condition->value >> 32, 1);
    emit_return(program, SECCOMP_RET_ALLOW);
}

static void
write_program(struct program *program, uint32_t refusal)
{
    emit_load(program, offsetof(struct seccomp_data, arch));
    emit(program, BPF_JMP | BPF_JEQ | BPF_K, FILTER_ARCH, 1, 0);
    emit_return(program, refusal);
    emit_load(program, offsetof(struct seccomp_data, nr));
    emit(program, BPF_JMP | BPF_JGE | BPF_K, FILTER_FOREIGN, 0, 1);
    emit_return(program, refusal);
    for (size_t i = 0; i < COUNT(allowed); i++) {
        emit(program, BPF_JMP | BPF_JEQ | BPF_K, allowed[i], 0, 1);
        emit_return(program, SECCOMP_RET_ALLOW);
    }
    for (size_t i = 0; i < COUNT(conditional); i++) {
        emit_condition(program, &conditional[i]);
    }
    emit_return(program, refusal);
}

vd_error
vd_confine_system_calls(enum vd_confinement confinement)
{
    struct program program = {.length = 0};
    write_program(&program, confinement == VD_CONFINE_KILL
                                ? SECCOMP_RET_KILL_PROCESS
                                : SECCOMP_RET_ERRNO | EPERM);
    struct sock_fprog filter = {program.length, program.code};
    long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                          SECCOMP_FILTER_FLAG_TSYNC, &filter);
    if (result < 0 && (errno == ENOSYS || errno == EINVAL)) {
        return ERROR_NOT_SUPPORTED; /* a kernel without filters */
    }
    if (result < 0) {
        return refused("seccomp");
    }
    if (result > 0) {
        vd_trace(VD_TRACE_ATTACH, "server: thread %ld cannot be confined",
                 result);
        return ERROR_GEN_FAILURE;
    }
    return ERROR_SUCCESS;
}

#else

vd_error
vd_confine_system_calls(enum vd_confinement confinement)
{
    (void)confinement;
    return ERROR_NOT_SUPPORTED;
}

#endif
