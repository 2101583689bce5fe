/* SPDX-License-Identifier: BSD-3-Clause */
/* See region_guard.h. The table is written by the control plane and read by the signal handler, which makes
 * system calls alone: mmap() is one, whatever the C library says of it. */
#include "control/region_guard.h"

#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include "core/platform.h"

#define GUARDS_MAX 65536u

struct guarded {
	uint8_t *base; /* NULL: free; written last */
	uint64_t size;
	uint32_t broken;
};

static struct guarded guards[GUARDS_MAX];
static uint32_t guards_high; /* entries below may be in use */
static uint32_t faults;
static struct sigaction before;

/* Not ours: as it would have been without us. The access is repeated, and ends the process there. */
static void pass_on(int signal, siginfo_t *info, void *context)
{
	if ((before.sa_flags & SA_SIGINFO) && before.sa_sigaction) {
		before.sa_sigaction(signal, info, context);
		return;
	}
	sigaction(SIGBUS, &before, NULL);
}

static void on_sigbus(int signal, siginfo_t *info, void *context)
{
	const uint8_t *at = info->si_addr;

	for (uint32_t i = 0; i < load_acquire32(&guards_high); i++) {
		struct guarded *g = &guards[i];
		uint8_t *base = __atomic_load_n(&g->base, __ATOMIC_ACQUIRE);

		if (!base || at < base || (uint64_t)(at - base) >= g->size)
			continue;
		if (mmap(base, g->size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
			break;
		store_release32(&g->broken, 1);
		__atomic_fetch_add(&faults, 1, __ATOMIC_RELEASE);
		return;
	}
	pass_on(signal, info, context);
}

int region_guard_add(uint8_t *base, uint64_t size)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER}, now;
	uint32_t i = 0;

	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, NULL, &now) != 0)
		return REGION_GUARD_NONE;
	if (now.sa_sigaction != on_sigbus) {
		before = now;
		if (sigaction(SIGBUS, &action, NULL) != 0)
			return REGION_GUARD_NONE;
	}
	while (i < guards_high && guards[i].base)
		i++;
	if (i == GUARDS_MAX)
		return REGION_GUARD_NONE;
	guards[i].size = size;
	guards[i].broken = 0;
	__atomic_store_n(&guards[i].base, base, __ATOMIC_RELEASE);
	if (i == guards_high)
		store_release32(&guards_high, i + 1u);
	return (int)i;
}

void region_guard_remove(int guard)
{
	if (guard != REGION_GUARD_NONE)
		__atomic_store_n(&guards[guard].base, NULL, __ATOMIC_RELEASE);
}

bool region_guard_broken(int guard)
{
	return guard != REGION_GUARD_NONE && load_acquire32(&guards[guard].broken) != 0;
}

uint32_t region_guard_faults(void)
{
	return __atomic_load_n(&faults, __ATOMIC_ACQUIRE);
}
