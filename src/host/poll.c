/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * poll() and select() over sets that hold sockets of ours. Ours are asked directly, the kernel's with a
 * ppoll() that does not wait; if nothing is ready, one ppoll() sleeps on the kernel's and on the eventfds of
 * the lanes. Any thread; no lock is held while asleep.
 */
#include "host/posix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FEW 64

bool poll_is_mixed(const struct pollfd *fds, nfds_t count)
{
	if (!fdtable_size)
		return false;
	for (nfds_t i = 0; i < count; i++) {
		struct file *file = file_of(fds[i].fd);

		if (file && ((file->kind == FILE_EPOLL && process.ft) || offloaded_of(fds[i].fd)))
			return true;
	}
	return false;
}

/* A set being polled: ours, and the kernel's part of it. */
struct poll_set {
	struct pollfd *fds;
	nfds_t count;
	uint64_t lanes;
	struct pollfd
		*kernel; /* extra descriptors for sleeper_poll(): those of the caller that the kernel knows */
	nfds_t *kernel_at; /* where in fds */
	unsigned kernel_count;
};

/* What of ours is true now: fills revents in, returns how many are. */
static int ours_ready(struct pollfd *fds, nfds_t count, uint64_t *lanes)
{
	int ready = 0;

	for (nfds_t i = 0; i < count; i++) {
		struct file *file = file_of(fds[i].fd);
		unsigned events = 0;

		fds[i].revents = 0;
		if (!file)
			continue;
		if (file->kind != FILE_EPOLL && file->kind != FILE_SOCKET)
			continue; /* a listener of another process, without an engine */
		if (file->kind == FILE_EPOLL) {
			events = epoll_ready((struct epoll *)file, lanes) ? POLLIN | POLLRDNORM : 0;
		} else if (socket_offloaded((struct socket *)file)) {
			struct socket *s = (struct socket *)file;

			if (unlikely(s->inherited))
				socket_unlock(socket_lock(s, fds[i].fd));

			*lanes |= 1ull << __atomic_load_n(&s->lane, __ATOMIC_ACQUIRE)->index;
			events = socket_events(s);
		}
		fds[i].revents = (short)(events & ((unsigned short)fds[i].events | POLLERR | POLLHUP));
		ready += fds[i].revents != 0;
	}
	return ready;
}

static bool ours_ready_look(const void *arg)
{
	const struct poll_set *set = arg;
	uint64_t lanes = 0;
	/* revents are the caller's to be overwritten until poll() returns. */
	int ready = ours_ready(set->fds, set->count, &lanes);

	return ready || (lanes & ~set->lanes);
}

/* Listeners among them ask for connections. */
static void listeners_visit(const struct poll_set *set)
{
	for (nfds_t i = 0; i < set->count; i++) {
		struct socket *s = socket_here(set->fds[i].fd);

		if (s && (set->fds[i].events & (POLLIN | POLLRDNORM)))
			listener_visit(s);
	}
}

/* The kernel's part: everything that is not ours, listeners that are both, and epolls. */
static void kernel_part(struct poll_set *set)
{
	set->kernel_count = 0;
	for (nfds_t i = 0; i < set->count; i++) {
		struct socket *s = offloaded_of(set->fds[i].fd);

		if (set->fds[i].fd < 0 || (s && !(s->kernel_bound && s->state == SOCKET_LISTENING)))
			continue;
		set->kernel_at[set->kernel_count] = i;
		set->kernel[set->kernel_count++] =
			(struct pollfd){.fd = set->fds[i].fd, .events = set->fds[i].events};
	}
}

static int kernel_merge(struct poll_set *set)
{
	int ready = 0;

	for (unsigned i = 0; i < set->kernel_count; i++) {
		struct pollfd *fd = &set->fds[set->kernel_at[i]];
		short revents = set->kernel[i].revents;

		ready += !fd->revents && revents;
		fd->revents |= revents;
	}
	return ready;
}

static void lanes_service(uint64_t lanes)
{
	for (; lanes; lanes &= lanes - 1)
		lane_service(lane_at((unsigned)__builtin_ctzll(lanes)));
}

static int poll_rounds(struct poll_set *set, uint64_t deadline_us, const sigset_t *sigmask)
{
	struct sleep sleep = {
		.deadline_us = deadline_us, .sigmask = sigmask, .ready = ours_ready_look, .arg = set};
	static const struct timespec zero;

	for (;;) {
		int ready, rc;

		listeners_visit(set);
		set->lanes = 0;
		ours_ready(set->fds, set->count, &set->lanes);
		lanes_service(set->lanes);
		ready = ours_ready(set->fds, set->count, &set->lanes);
		kernel_part(set);
		if (ready || (deadline_us != DEADLINE_NEVER && clock_us() >= deadline_us)) {
			if (set->kernel_count && syscall(SYS_ppoll, set->kernel, set->kernel_count, &zero,
							 sigmask, sizeof(unsigned long)) > 0)
				ready += kernel_merge(set);
			return ready;
		}
		sleep.mask = set->lanes;
		rc = sleeper_poll(&sleep, set->kernel, set->kernel_count);
		if (rc < 0)
			return rc;
		if (rc > 0) {
			set->lanes = 0;
			ours_ready(set->fds, set->count, &set->lanes);
			lanes_service(set->lanes);
			ready = ours_ready(set->fds, set->count, &set->lanes) + kernel_merge(set);
			if (ready)
				return ready;
		}
	}
}

int posix_poll(struct pollfd *fds, nfds_t count, uint64_t deadline_us, const sigset_t *sigmask)
{
	struct pollfd few[FEW];
	nfds_t few_at[FEW];
	struct poll_set set = {.fds = fds, .count = count, .kernel = few, .kernel_at = few_at};
	int rc;

	if (count > FEW) {
		set.kernel = malloc(count * sizeof(*set.kernel));
		set.kernel_at = malloc(count * sizeof(*set.kernel_at));
		if (!set.kernel || !set.kernel_at) {
			free(set.kernel);
			free(set.kernel_at);
			return -ENOMEM;
		}
	}
	rc = poll_rounds(&set, deadline_us, sigmask);
	if (count > FEW) {
		free(set.kernel);
		free(set.kernel_at);
	}
	return rc;
}

/* ---- select() as a poll() ---- */

#define SELECT_IN  (POLLRDNORM | POLLRDBAND | POLLIN | POLLHUP | POLLERR)
#define SELECT_OUT (POLLWRBAND | POLLWRNORM | POLLOUT | POLLERR)

/* The bit of a set that may be larger than fd_set says. */
static bool bit_get(const fd_set *set, int fd)
{
	return set &&
	       (((const unsigned long *)set)[fd / (8 * (int)sizeof(long))] >> (fd % (8 * (int)sizeof(long))) &
		       1);
}

static void bit_set(fd_set *set, int fd)
{
	((unsigned long *)set)[fd / (8 * (int)sizeof(long))] |= 1ul << (fd % (8 * (int)sizeof(long)));
}

static void bits_clear(fd_set *set, int count)
{
	if (set)
		memset(set, 0, (size_t)(count + 63) / 64 * 8);
}

bool select_is_mixed(int count, const fd_set *r, const fd_set *w, const fd_set *e)
{
	if (!fdtable_size)
		return false;
	for (int fd = 0; fd < count && fd < fdtable_used; fd++) {
		struct file *file = file_of(fd);

		if (file && (bit_get(r, fd) || bit_get(w, fd) || bit_get(e, fd)) &&
			((file->kind == FILE_EPOLL && process.ft) || offloaded_of(fd)))
			return true;
	}
	return false;
}

int posix_select(int count, fd_set *r, fd_set *w, fd_set *e, uint64_t deadline_us, const sigset_t *sigmask)
{
	struct pollfd *fds;
	nfds_t n = 0;
	int rc, bits = 0;

	if (count < 0)
		return -EINVAL;
	fds = calloc((size_t)count + 1, sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	for (int fd = 0; fd < count; fd++) {
		short events = (short)((bit_get(r, fd) ? POLLIN : 0) | (bit_get(w, fd) ? POLLOUT : 0) |
				       (bit_get(e, fd) ? POLLPRI : 0));

		if (events)
			fds[n++] = (struct pollfd){.fd = fd, .events = events};
	}
	rc = posix_poll(fds, n, deadline_us, sigmask);
	if (rc < 0)
		goto out;
	for (nfds_t i = 0; i < n; i++)
		if (fds[i].revents & POLLNVAL) {
			rc = -EBADF;
			goto out;
		}
	bits_clear(r, count);
	bits_clear(w, count);
	bits_clear(e, count);
	for (nfds_t i = 0; i < n; i++) {
		if ((fds[i].events & POLLIN) && (fds[i].revents & SELECT_IN)) {
			bit_set(r, fds[i].fd);
			bits++;
		}
		if ((fds[i].events & POLLOUT) && (fds[i].revents & SELECT_OUT)) {
			bit_set(w, fds[i].fd);
			bits++;
		}
		if ((fds[i].events & POLLPRI) && (fds[i].revents & POLLPRI)) {
			bit_set(e, fds[i].fd);
			bits++;
		}
	}
	rc = bits;
out:
	free(fds);
	return rc;
}
