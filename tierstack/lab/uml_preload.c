/*
 * Mends two things in Debian's User-Mode Linux; loaded with LD_PRELOAD.
 *
 * Processors with more registers than it knows: it keeps 2,696 bytes of a process's extended
 * registers (all up to AVX-512 and PKRU), and writes these back with ptrace(PTRACE_SETREGSET). The
 * machine's kernel takes nothing but the whole set, which is 11,008 bytes on processors with AMX,
 * and answers EFAULT: "ptrace set fp regs failed". This fills up the set; what is missing is in
 * its initial state, since no program can use AMX without asking its kernel, and User-Mode Linux
 * has no such call.
 *
 * Reboots: it executes itself again, with all files of the boot before still open, and cannot
 * connect to its network, which is busy.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>

#define XSTATE_BV 512 /* where a set says which of its parts are not in their initial state */

static char whole[1 << 16];

__attribute__((constructor)) static void close_what_an_earlier_boot_left(void)
{
	close_range(3, ~0U, 0);
}

long ptrace(enum __ptrace_request request, ...)
{
	static long (*libc_ptrace)(enum __ptrace_request, int, void *, void *);
	va_list arguments;
	va_start(arguments, request);
	int pid = va_arg(arguments, int);
	void *address = va_arg(arguments, void *);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if (!libc_ptrace)
		libc_ptrace = dlsym(RTLD_NEXT, "ptrace");
	long result = libc_ptrace(request, pid, address, data);
	if (result == 0 || errno != EFAULT || request != PTRACE_SETREGSET ||
	    (uintptr_t)address != NT_X86_XSTATE)
		return result;

	/* Asked again at each call: it costs little beside the switch of processes around it. */
	const struct iovec *known = data;
	struct iovec all = {whole, sizeof whole};
	if (libc_ptrace(PTRACE_GETREGSET, pid, address, &all) || all.iov_len <= known->iov_len)
		return result;
	memset(whole, 0, all.iov_len);
	memcpy(whole, known->iov_base, known->iov_len);
	/* Parts 0 to 9 lie in what is known, part 10 and later do not. */
	*(uint64_t *)(whole + XSTATE_BV) &= 0x3ff;
	return libc_ptrace(PTRACE_SETREGSET, pid, address, &all);
}
