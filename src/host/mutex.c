/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The lock of the POSIX layer: a futex word, 0 free, 1 held, 2 held and somebody sleeps. Short critical
 * sections only. While the process has a single thread it costs a load and a store: threads cannot appear
 * inside a critical section, since nothing here starts one. fork() in the child makes all locks anew.
 */
#include "host/posix.h"

#include <linux/futex.h>
#include <sys/single_threaded.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LOCK_SPINS 64

static void lock_slow(struct mutex *m)
{
	for (int i = 0; i < LOCK_SPINS; i++) {
		int expected = 0;

		if (atomic_load_explicit(&m->word, memory_order_relaxed) == 0 &&
			atomic_compare_exchange_weak_explicit(
				&m->word, &expected, 1, memory_order_acquire, memory_order_relaxed))
			return;
		cpu_pause();
	}
	while (atomic_exchange_explicit(&m->word, 2, memory_order_acquire) != 0)
		syscall(SYS_futex, &m->word, FUTEX_WAIT_PRIVATE, 2, NULL, NULL, 0);
}

void mutex_lock(struct mutex *m)
{
	int expected = 0;

	if (__libc_single_threaded) {
		atomic_store_explicit(&m->word, 1, memory_order_relaxed);
		return;
	}
	if (unlikely(!atomic_compare_exchange_strong_explicit(
		    &m->word, &expected, 1, memory_order_acquire, memory_order_relaxed)))
		lock_slow(m);
}

void mutex_unlock(struct mutex *m)
{
	if (__libc_single_threaded) {
		atomic_store_explicit(&m->word, 0, memory_order_relaxed);
		return;
	}
	if (unlikely(atomic_exchange_explicit(&m->word, 0, memory_order_release) == 2))
		syscall(SYS_futex, &m->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}
