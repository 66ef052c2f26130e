/*
 * Takes signals as user-mode Linux does, on a stack of 16 KiB that starts at a multiple of its size.
 * Says in its exit code which expectation failed first; 0 is none.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { STACK_BYTES = 16 << 10, DEEPEST = 40, WAYS = 5000 };

static unsigned char stack[STACK_BYTES] __attribute__((aligned(STACK_BYTES)));
static volatile uintptr_t last;
static volatile int depth;

static void expect(int holds, int code)
{
	if (!holds)
		_Exit(code);
}

static int is_inside(const void *at)
{
	return (uintptr_t)at - (uintptr_t)stack < STACK_BYTES;
}

static void other(int sig)
{
	(void)sig;
}

static void handle(int sig, siginfo_t *info, void *context)
{
	unsigned char registers[64];
	uintptr_t here = (uintptr_t)registers, before = last;
	ucontext_t *frame = context;

	memset(registers, depth, sizeof registers);
	expect(is_inside(registers), 10);
	expect(!is_inside(context) && !is_inside(info), 11);
	expect(sig == SIGUSR1 && info->si_signo == SIGUSR1, 12);
	if (depth == 0)
		expect((uintptr_t)stack + STACK_BYTES - here < 1024, 13);
	else
		expect(is_inside((void *)frame->uc_mcontext.gregs[REG_RSP]) && here < before, 14);
	last = here;
	if (++depth < DEEPEST)
		raise(SIGUSR1); /* it isn't masked: the next handler runs in the middle of this one */
	depth--;
	last = before;
	for (unsigned i = 0; i < sizeof registers; i++)
		expect(registers[i] == depth, 15);
}

int main(void)
{
	stack_t small = {.ss_sp = malloc(4096), .ss_size = 4096};
	stack_t large = {.ss_sp = stack, .ss_size = STACK_BYTES}, now, then;
	uintptr_t known[4]; /* to the machine's kernel: the handler first */
	struct sigaction plain = {.sa_handler = other}, action = {.sa_sigaction = handle}, old;

	expect(!sigaction(SIGUSR1, &plain, NULL), 20);
	expect(!sigaltstack(&large, NULL) && !sigaltstack(NULL, &now), 21);
	action.sa_flags = SA_ONSTACK | SA_SIGINFO | SA_NODEFER;
	expect(!sigaction(SIGUSR1, &action, &old) && old.sa_handler == other, 22);
	/* More often than there is room for frames, so none may be left behind. */
	for (int i = 0; i < WAYS; i++)
		raise(SIGUSR1);
	expect(!sigaltstack(NULL, &then) && !memcmp(&now, &then, sizeof now), 23);
	expect(!sigaction(SIGUSR1, &action, &old) && old.sa_sigaction == handle, 24);
	expect(!sigaction(SIGUSR1, NULL, &old) && old.sa_sigaction == handle, 25);

	/* Behind a stack of one page, that of a host's process, nothing is in the way. */
	expect(!sigaltstack(&small, NULL) && !sigaltstack(NULL, &now), 26);
	expect(now.ss_sp == small.ss_sp && now.ss_size == small.ss_size, 27);
	expect(!sigaction(SIGUSR1, &action, NULL), 28);
	expect(!syscall(SYS_rt_sigaction, SIGUSR1, NULL, known, 8) && known[0] == (uintptr_t)handle, 29);
	return 0;
}
