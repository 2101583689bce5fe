/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Lanes: which context a thread works on, taking in its notifications, and sleeping on one or several. A
 * sleeping thread registers an eventfd of its own with every lane it sleeps on; whoever drains a lane wakes
 * the others that sleep on it, so it does not matter which thread the engine's kick reaches.
 */
#include "host/posix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DRAIN_BATCH 64

static _Thread_local struct {
	struct lane *lane;
	int wake_fd; /* 0: none yet */
	pid_t pid;   /* of the attachment it is for */
} self;

static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;

/* A thread ends: the next one takes its lane. Sockets that live there stay. */
static void thread_exit(void *lane)
{
	if (self.pid != process.pid)
		return;
	mutex_lock(&process.lock);
	((struct lane *)lane)->users--;
	mutex_unlock(&process.lock);
	if (self.wake_fd > 0)
		syscall(SYS_close, self.wake_fd);
	self.wake_fd = 0;
	self.lane = NULL;
}

static void exit_key_create(void)
{
	pthread_key_create(&exit_key, thread_exit);
}

struct lane *lane_at(unsigned index)
{
	return &process.lane[index];
}

/* A lane for a new thread: one nobody uses, or a new one, or the least used. The process is locked. */
static struct lane *lane_choose(void)
{
	struct lane *best = NULL;
	unsigned limit = process.ft->contexts_max < LANES_MAX ? process.ft->contexts_max : LANES_MAX;

	if (heir_own_lane())
		return heir_own_lane();
	for (unsigned i = 0; i < process.lane_count; i++)
		if (!heir_lane(i) && (!best || process.lane[i].users < best->users))
			best = &process.lane[i];
	if (best && (best->users == 0 || process.lane_count == limit))
		return best;
	if (process.lane_count < limit) {
		struct lane *lane = &process.lane[process.lane_count];

		if (flextoe_context_open(process.ft, &lane->ctx) == 0) {
			lane->index = process.lane_count;
			__atomic_store_n(&process.lane_count, process.lane_count + 1, __ATOMIC_RELEASE);
			return lane;
		}
	}
	return best;
}

struct lane *lane_mine(void)
{
	if (likely(self.lane && self.pid == process.pid))
		return self.lane;
	if (!process.ft)
		return NULL;
	if (self.pid != process.pid)
		self.wake_fd = 0; /* a parent's */
	pthread_once(&exit_once, exit_key_create);
	mutex_lock(&process.lock);
	self.lane = lane_choose();
	if (self.lane) {
		self.lane->users++;
		self.pid = process.pid;
	}
	mutex_unlock(&process.lock);
	if (self.lane)
		pthread_setspecific(exit_key, self.lane);
	return self.lane;
}

int thread_wake_fd(void)
{
	if (!lane_mine())
		return -ENETDOWN;
	if (self.wake_fd <= 0) {
		int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

		if (fd < 0)
			return -errno;
		self.wake_fd = fd;
	}
	return self.wake_fd;
}

/* ---- taking in notifications ---- */

void lane_wake(struct lane *lane)
{
	uint64_t one = 1;

	for (struct waiter *w = lane->waiters; w; w = w->next)
		if (syscall(SYS_write, w->fd, &one, sizeof(one)) < 0)
			continue; /* the counter is full: it is awake */
}

void lane_drain(struct lane *lane)
{
	struct flextoe_event event[DRAIN_BATCH];
	bool any = false;
	int n;

	do {
		n = flextoe_poll(lane->ctx, event, DRAIN_BATCH);
		for (int i = 0; i < n; i++) {
			if (unlikely(event[i].type == FLEXTOE_EVENT_DEAD)) {
				lane->dead = true;
				socket_lane_died(lane);
			} else {
				socket_event(lane, &event[i]);
			}
		}
		any |= n > 0;
	} while (n == DRAIN_BATCH);
	if (any && lane->waiters)
		lane_wake(lane);
}

void lane_service(struct lane *lane)
{
	if (!lane_pending(lane) && !__atomic_load_n(&lane->ctx->dirty_count, __ATOMIC_RELAXED) &&
		!__atomic_load_n(&lane->ctx->queue_count, __ATOMIC_RELAXED) && !context_is_dead(lane->ctx))
		return;
	if (lane->dead && !lane_pending(lane))
		return;
	mutex_lock(&lane->lock);
	lane_drain(lane);
	mutex_unlock(&lane->lock);
}

/* ---- sleeping ---- */

#define for_each_lane(lane, mask)                                                                            \
	for (uint64_t m_ = (mask); m_ && ((lane) = lane_at((unsigned)__builtin_ctzll(m_)), true);            \
		m_ &= m_ - 1)

bool sleeper_begin(struct sleeper *sleeper, uint64_t mask, int fd)
{
	struct lane *lane;
	bool ready = false;

	sleeper->mask = mask;
	for_each_lane(lane, mask)
	{
		struct waiter *w = &sleeper->waiter[lane->index];

		mutex_lock(&lane->lock);
		w->fd = fd;
		w->next = lane->waiters;
		w->link = &lane->waiters;
		if (w->next)
			w->next->link = &w->next;
		lane->waiters = w;
		ready |= flextoe_context_arm(lane->ctx) && !lane->dead;
		mutex_unlock(&lane->lock);
	}
	return ready;
}

void sleeper_end(struct sleeper *sleeper)
{
	struct lane *lane;

	for_each_lane(lane, sleeper->mask)
	{
		struct waiter *w = &sleeper->waiter[lane->index];

		mutex_lock(&lane->lock);
		*w->link = w->next;
		if (w->next)
			w->next->link = w->link;
		if (!lane->waiters)
			flextoe_context_disarm(lane->ctx);
		mutex_unlock(&lane->lock);
	}
}

bool sleeper_spin(uint64_t mask, uint64_t deadline_us)
{
	uint64_t now = clock_us(), end = now + process.ft->spin_us;
	struct lane *lane;

	if (!process.ft->spin_us || deadline_us <= now)
		return false;
	if (end > deadline_us)
		end = deadline_us;
	do {
		for (int i = 0; i < 16; i++) {
			for_each_lane(lane, mask) if (lane_pending(lane)) return true;
			cpu_pause();
		}
	} while (clock_us() < end);
	return false;
}

static void eventfd_clear(int fd)
{
	uint64_t count;

	if (syscall(SYS_read, fd, &count, sizeof(count)) < 0)
		return; /* another thread was faster */
}

uint64_t heirs_deadline(uint64_t deadline_us)
{
	uint64_t look_us;

	if (likely(!heirs_reap()))
		return deadline_us;
	look_us = deadline_after_us(HEIR_LOOK_US);
	return look_us < deadline_us ? look_us : deadline_us;
}

int sleeper_poll(const struct sleep *sleep, struct pollfd *extra, unsigned extra_count)
{
	uint64_t mask = sleep->mask, deadline_us = heirs_deadline(sleep->deadline_us);
	struct pollfd few[16], *fds = few;
	struct timespec ts, *timeout = NULL;
	struct sleeper sleeper;
	struct lane *lane;
	unsigned n = 0;
	int rc = 0, wake_fd;

	if (sleeper_spin(mask, deadline_us))
		return 0;
	wake_fd = thread_wake_fd();
	if (wake_fd < 0)
		return wake_fd;
	if (extra_count + (unsigned)__builtin_popcountll(mask) + 2 > ARRAY_SIZE(few)) {
		fds = malloc((extra_count + LANES_MAX + 2) * sizeof(*fds));
		if (!fds)
			return -ENOMEM;
	}
	if (!sleeper_begin(&sleeper, mask, wake_fd) && !sleep->ready(sleep->arg)) {
		uint64_t now = deadline_us == DEADLINE_NEVER ? 0 : clock_us();

		if (extra_count)
			memcpy(fds, extra, extra_count * sizeof(*fds));
		n = extra_count;
		fds[n++] = (struct pollfd){.fd = wake_fd, .events = POLLIN};
		fds[n++] = (struct pollfd){.fd = process.ft->control_fd};
		for_each_lane(lane, mask) fds[n++] =
			(struct pollfd){.fd = lane->ctx->wake_fd, .events = POLLIN};
		if (deadline_us != DEADLINE_NEVER) {
			uint64_t left = deadline_us > now ? deadline_us - now : 0;

			ts = (struct timespec){
				.tv_sec = (time_t)(left / 1000000), .tv_nsec = (long)(left % 1000000 * 1000)};
			timeout = &ts;
		}
		rc = (int)syscall(SYS_ppoll, fds, n, timeout, sleep->sigmask, sizeof(unsigned long));
		if (rc < 0)
			rc = -errno;
	}
	sleeper_end(&sleeper);
	if (rc > 0) {
		rc = 0;
		for (unsigned i = 0; i < extra_count; i++) {
			extra[i].revents = fds[i].revents;
			rc += fds[i].revents != 0;
		}
		if (fds[extra_count + 1].revents)
			attach_check_dead(process.ft);
		for (unsigned i = extra_count; i < n; i++)
			if (i != extra_count + 1 && (fds[i].revents & POLLIN))
				eventfd_clear(fds[i].fd);
	}
	if (fds != few)
		free(fds);
	return rc;
}

/* A handful of system calls, but only after a signal: no bookkeeping of sigaction() is needed. */
bool signals_restart(void)
{
	for (int number = 1; number < _NSIG; number++) {
		struct sigaction action;

		if (sigaction(number, NULL, &action) < 0)
			continue;
		if (!(action.sa_flags & SA_SIGINFO) &&
			(action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN))
			continue;
		if (!(action.sa_flags & SA_RESTART))
			return false;
	}
	return true;
}
