/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From a descriptor's number to our socket or epoll behind it. The kernel gives out the numbers: every file
 * of ours has a real descriptor as its placeholder. Look-ups take no lock; changes are single atomic
 * exchanges.
 */
#include "host/posix.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FDTABLE_MAX (1 << 20)

_Atomic(struct file *) *fdtable;
int fdtable_size;
int fdtable_used;

int fdtable_init(void)
{
	if (fdtable)
		return 0;
	/* For more than the limit of today, which may be raised; what is not used takes no memory. */
	fdtable = mmap(NULL, FDTABLE_MAX * sizeof(*fdtable), PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (fdtable == MAP_FAILED) {
		fdtable = NULL;
		return -ENOMEM;
	}
	__atomic_store_n(&fdtable_size, FDTABLE_MAX, __ATOMIC_RELEASE);
	return 0;
}

static struct file hidden = {.kind = FILE_HIDDEN, .refs = 1};

static void file_drop(struct file *file)
{
	if (file == &hidden)
		return;
	if (atomic_fetch_sub(&file->refs, 1) != 1)
		return;
	if (file->kind == FILE_SOCKET)
		socket_destroy((struct socket *)file);
	else if (file->kind == FILE_KEPT)
		kept_drop((struct socket *)file);
	else
		epoll_destroy((struct epoll *)file);
}

bool fdtable_set(int fd, struct file *file)
{
	struct file *old;

	if ((unsigned)fd >= (unsigned)fdtable_size)
		return false;
	for (int used = __atomic_load_n(&fdtable_used, __ATOMIC_RELAXED); used <= fd;)
		if (__atomic_compare_exchange_n(
			    &fdtable_used, &used, fd + 1, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
			break;
	old = atomic_exchange(&fdtable[fd], file);
	if (old) /* closed behind our back (a raw system call): the number is the new file's now */
		file_drop(old);
	return true;
}

void fdtable_dup(int to, struct file *file)
{
	atomic_fetch_add(&file->refs, 1);
	if (!fdtable_set(to, file))
		file_drop(file);
}

void fdtable_hide(int fd)
{
	fdtable_set(fd, &hidden);
}

void fdtable_hidden_close(int fd)
{
	if (fdtable_hidden(fd))
		atomic_store(&fdtable[fd], NULL);
	syscall(SYS_close, fd);
}

void fdtable_close(int fd)
{
	struct file *file;

	if ((unsigned)fd >= (unsigned)fdtable_size)
		return;
	file = atomic_exchange(&fdtable[fd], NULL);
	if (file)
		file_drop(file);
}

void fdtable_close_range(unsigned first, unsigned last)
{
	for (unsigned fd = first; fd <= last && fd < (unsigned)fdtable_used; fd++)
		if (file_of((int)fd) && !fdtable_hidden((int)fd))
			fdtable_close((int)fd);
}

void fdtable_forget(void)
{
	for (int fd = 0; fd < fdtable_used; fd++) {
		struct file *file = file_of(fd);

		if (file && file->kind == FILE_EPOLL)
			epoll_forget((struct epoll *)file);
		else if (file && file != &hidden && !kept_child((struct socket *)file, NULL))
			atomic_store(&fdtable[fd], NULL);
	}
}
