//go:build ignore

// The first process of a container that was started with --init: it passes signals on to the command, reaps whatever is left to it, and
// ends as the command ends. hack/init.sh compiles it, for no library and with none of the kernel's headers; doc.go says who starts it.
//
// It is started when its child, which becomes the command, is already there, with a pidfd of that as descriptor 0 and every signal blocked
// since before there was a child. So nothing is missed, and nothing here can fail: there is no memory to be had, no file to be opened.

#if defined(__x86_64__)
enum { rt_sigaction = 13, rt_sigtimedwait = 128, prctl = 157, exit_group = 231, waitid = 247 };
#elif defined(__aarch64__)
enum { rt_sigaction = 134, rt_sigtimedwait = 137, prctl = 167, exit_group = 94, waitid = 95 };
#endif
enum { pidfd_send_signal = 424 };

enum { P_ALL = 0, P_PID = 1, P_PIDFD = 3 };                        // linux/wait.h
enum { WNOHANG = 1, WEXITED = 4, WNOWAIT = 0x1000000 };
enum { PR_SET_NAME = 15, SIGCHLD = 17, CLD_EXITED = 1 };
enum { command = 0 };                                              // the descriptor

// siginfo is the kernel's siginfo_t as waitid fills it, on a machine of 64 bits.
struct siginfo {
	int signo, err, code, pad, pid, uid, status, rest[25];
};

static inline long call(long n, long a, long b, long c, long d, long e) {
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	__asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8) : "rcx", "r11", "memory");
	return n;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
#endif
}

// look looks for a child that has ended, and leaves it as it is. Its pid, or 0, is in info; what is returned is 0 or an error.
static long look(struct siginfo *info, int kind, int id) {
	info->pid = 0;
	return call(waitid, kind, id, (long)info, WEXITED | WNOHANG | WNOWAIT, 0);
}

static void end(int status) { call(exit_group, status, 0, 0, 0, 0); }

// reap takes away every child that has ended; when the command has, that is the end. Some child is looked for before the command is: if
// that lives then, the dead one was another.
static void reap(void) {
	struct siginfo some, ours;
	do {
		look(&some, P_ALL, 0);
		if (look(&ours, P_PIDFD, command) < 0)
			end(126); // somebody runs this as a command
		if (ours.pid)
			end(ours.code == CLD_EXITED ? ours.status : 128 + ours.status);
		if (some.pid)
			call(waitid, P_PID, some.pid, 0, WEXITED | WNOHANG, 0);
	} while (some.pid);
}

static void never(void) {}

__attribute__((noreturn)) void _start(void) {
	// The name of a descriptor is all that the kernel would call it by.
	const long name[2] = {0x6c7463726579616c, 0x74696e692d}; // "layerctl-init"
	call(prctl, PR_SET_NAME, (long)name, 0, 0, 0);
	// No handler is ever called, for what is waited for is taken before. But /proc/PID/status shows which signals have one, and that is
	// where others look whether a first process heeds a signal.
	const long action[4] = {(long)never}; // the kernel's struct sigaction
	for (int sig = 1; sig <= 64; sig++)
		call(rt_sigaction, sig, (long)action, 0, 8, 0);
	const unsigned long every = ~0UL;
	for (;;) {
		reap();
		long sig = call(rt_sigtimedwait, (long)&every, 0, 0, sizeof every, 0);
		if (sig > 0 && sig != SIGCHLD)
			call(pidfd_send_signal, command, sig, 0, 0, 0);
	}
}
