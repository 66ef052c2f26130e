/*
 * Room for signals: what the machine's kernel saves of the processor lies apart from the stack on
 * which user-mode Linux does an interrupt's work.
 *
 * It has one stack of 16 KiB for both. With AVX-512 a signal's frame takes 3.5 KiB of it, and a fault
 * in the middle of an interrupt another 3.5; what is left is too little for a network's or a disk's
 * whole way up, seldom, under load. The machine's kernel ends the process then, and says so to
 * nobody but dmesg ("overflowed sigaltstack"). That stack can't be larger: whoever runs on it finds
 * its thread_info by rounding the stack pointer down (arch/um/include/asm/thread_info.h).
 *
 * So the machine's kernel is given a larger stack, `frames`. `enter` runs there and goes over to the
 * old one, which now has handlers only. Where a signal meets another's handler, both go on below:
 * `carry` tells the machine's kernel how much of `frames` is free, and returning from the signal
 * undoes that (sigreturn(2) restores the stack that was set when it came).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

enum { FRAMES_BYTES = 1 << 20, RED_ZONE_BYTES = 128, PAGE_BYTES = 4096 };

typedef void (*Handler)(int, siginfo_t *, void *);

static int (*real_sigaction)(int, const struct sigaction *, struct sigaction *);
static int (*real_sigaltstack)(const stack_t *, stack_t *);
static unsigned char frames[FRAMES_BYTES] __attribute__((aligned(PAGE_BYTES)));
static Handler handlers[_NSIG];
static uintptr_t stack; /* the one on which interrupts are worked on; 0 where there is none */
static uintptr_t stack_bytes;

__attribute__((constructor)) static void begin(void)
{
	real_sigaction = dlsym(RTLD_NEXT, "sigaction");
	real_sigaltstack = dlsym(RTLD_NEXT, "sigaltstack");
}

/* Runs on the old stack. Until `frames` is set anew no other signal may come: user-mode Linux masks
 * those from outside in each handler, and nothing here faults. */
static void carry(int sig, siginfo_t *info, void *context, uintptr_t used_from)
{
	const stack_t unused = {
		.ss_sp = frames,
		.ss_size = used_from - RED_ZONE_BYTES - (uintptr_t)frames,
	};

	if (real_sigaltstack(&unused, NULL)) {
		perror("no room for another signal");
		abort();
	}
	handlers[sig](sig, info, context);
}

static void enter(int sig, siginfo_t *info, void *context)
{
	uintptr_t at = ((ucontext_t *)context)->uc_mcontext.gregs[REG_RSP];
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	uintptr_t top = at - stack < stack_bytes ? at - RED_ZONE_BYTES : stack + stack_bytes;
	uintptr_t first = (uintptr_t)sig, fourth;

	if (here - (uintptr_t)frames >= FRAMES_BYTES) {
		/* A thread beside the kernel's, which has no such stack. */
		handlers[sig](sig, info, context);
		return;
	}
	__asm__ volatile("movq %%rsp, %%rbx\n\t"
			 "movq %%rsp, %%rcx\n\t"
			 "movq %[top], %%rsp\n\t"
			 "call *%[carry]\n\t"
			 "movq %%rbx, %%rsp"
			 : "+D"(first), "+S"(info), "+d"(context), "=&c"(fourth)
			 : [top] "r"(top & ~(uintptr_t)15), [carry] "r"(carry)
			 : "rax", "rbx", "r8", "r9", "r10", "r11", "cc", "memory", "xmm0", "xmm1",
			   "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
			   "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

/* The kernel's own stack is of several pages. A page is that of a host's process, set between fork
 * and its first instruction: from there on nothing here is in the way. */
int sigaltstack(const stack_t *new, stack_t *old)
{
	const stack_t ours = {.ss_sp = frames, .ss_size = FRAMES_BYTES};

	if (!new || new->ss_size <= PAGE_BYTES) {
		stack = new ? 0 : stack;
		return real_sigaltstack(new, old);
	}
	stack = (uintptr_t)new->ss_sp;
	stack_bytes = new->ss_size;
	return real_sigaltstack(&ours, old);
}

int sigaction(int sig, const struct sigaction *new, struct sigaction *old)
{
	Handler before = handlers[sig];
	struct sigaction ours;
	int failed;

	if (stack && new && new->sa_flags & SA_ONSTACK && new->sa_flags & SA_SIGINFO) {
		ours = *new;
		ours.sa_sigaction = enter;
		handlers[sig] = new->sa_sigaction;
		new = &ours;
	}
	failed = real_sigaction(sig, new, old);
	if (!failed && old && old->sa_sigaction == enter)
		old->sa_sigaction = before;
	return failed;
}
