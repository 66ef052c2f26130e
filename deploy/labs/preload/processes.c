/*
 * The processes of user-mode Linux: their registers, and their end.
 *
 * Extended states are given back whole. Before 6.13 it keeps a process's in 2,696 bytes: as far as
 * AVX-512 and protection keys. A machine with AMX has 11,008, and its kernel takes back nothing but
 * whole states: PTRACE_SETREGSET with NT_X86_XSTATE ends with EFAULT (arch/x86/kernel/fpu/regset.c),
 * and so does the first process. The rest is in its initial state, and the header says so (XSTATE_BV;
 * Intel SDM volume 1, 13.4; CPUID leaf 0Dh). Nothing is lost, for a process has AMX only where it
 * has asked for it (arch_prctl, ARCH_REQ_XCOMP_PERM), and user-mode Linux doesn't pass that on.
 *
 * What it traces and what it starts ends with it (PTRACE_O_EXITKILL, PR_SET_PDEATHSIG). Else the
 * machine's kernel lets the host's processes go on when their own is gone, as root's, on the machine.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <dlfcn.h>
#include <elf.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

enum { HEADER_AT = 512, COMPONENTS = 63, PTRACE_OLDSETOPTIONS = 21 };

typedef int (*Run)(void *);

struct child {
	Run run;
	void *argument;
};

static long (*real_ptrace)(enum __ptrace_request, ...);
static int (*real_clone)(Run, void *, int, void *, ...);
static size_t whole_bytes;
static uint64_t ends_at[COMPONENTS]; /* of each component; 0 where the machine has none */
static unsigned char whole[64 << 10] __attribute__((aligned(64)));

__attribute__((constructor)) static void begin(void)
{
	unsigned a, b, c, d;

	real_ptrace = dlsym(RTLD_NEXT, "ptrace");
	real_clone = dlsym(RTLD_NEXT, "clone");
	if (!__get_cpuid_count(0xd, 0, &a, &b, &c, &d))
		return;
	whole_bytes = b;
	for (unsigned i = 2; i < COMPONENTS; i++)
		/* Bit 0 of ECX: a state of the supervisor's, which isn't in here. */
		if (__get_cpuid_count(0xd, i, &a, &b, &c, &d) && a && !(c & 1))
			ends_at[i] = (uint64_t)a + b;
}

/* One thread of user-mode Linux traces: one buffer is enough. Beyond what it fills are zeros. */
static long give_whole(pid_t pid, void *kind, const struct iovec *part)
{
	struct iovec all = {whole, whole_bytes};
	uint64_t has;

	memcpy(whole, part->iov_base, part->iov_len);
	memcpy(&has, whole + HEADER_AT, sizeof has);
	for (unsigned i = 2; i < COMPONENTS; i++)
		if (ends_at[i] > part->iov_len)
			has &= ~(1ull << i);
	memcpy(whole + HEADER_AT, &has, sizeof has);
	return real_ptrace(PTRACE_SETREGSET, pid, kind, &all);
}

long ptrace(enum __ptrace_request request, ...)
{
	va_list rest;
	va_start(rest, request);
	pid_t pid = va_arg(rest, pid_t);
	void *addr = va_arg(rest, void *);
	void *data = va_arg(rest, void *);
	va_end(rest);

	if (request == PTRACE_SETREGSET && addr == (void *)NT_X86_XSTATE) {
		const struct iovec *part = data;
		if (part->iov_len >= HEADER_AT + 64 && part->iov_len < whole_bytes &&
		    whole_bytes <= sizeof whole)
			return give_whole(pid, addr, part);
	}
	if ((int)request == PTRACE_OLDSETOPTIONS || request == PTRACE_SETOPTIONS)
		data = (void *)((uintptr_t)data | PTRACE_O_EXITKILL);
	return real_ptrace(request, pid, addr, data);
}

static int run_bound(void *given)
{
	const struct child *child = given;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	return child->run(child->argument);
}

/* What the child is to do lies at the upper end of its stack. */
int clone(Run run, void *stack, int flags, void *argument, ...)
{
	struct child *child = (struct child *)(((uintptr_t)stack & ~(uintptr_t)15) - sizeof *child);

	*child = (struct child){run, argument};
	return real_clone(run_bound, child, flags, child);
}
