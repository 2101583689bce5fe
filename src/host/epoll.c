/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * epoll: a kernel epoll descriptor for the kernel's files, and beside it a list of our sockets that may be
 * ready. epoll_wait() serves ours first and looks at the kernel's now and then; to sleep it sleeps in the
 * kernel's epoll_wait(), to which it has added the eventfds of the lanes its sockets live on.
 *
 * An item is on the ready list when its socket may have an event for it. Events of a socket (under its lane's
 * lock) put its items there; epoll_wait() takes them off and asks the socket what is true now. An item that
 * is level-triggered and ready goes back to the end of the list.
 */
#include "host/posix.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define KERNEL_LOOK_CALLS 8u	  /* look at the kernel's files at least every so many calls */
#define KERNEL_LOOK_US	  50u	  /* and after so long */
#define POLL_EVENTS	  0x3fffu /* the events that poll() and epoll share the values of */

struct epitem {
	struct epoll *ep;
	struct socket *s;
	struct epitem *next, **link;		   /* of the socket: under its lane's lock */
	struct epitem *ready_next, **ready_link;   /* of the epoll: ready_link NULL when not on the list */
	struct epitem *all_next, **all_link;	   /* of the epoll */
	struct epitem *listen_next, **listen_link; /* of its listeners: listen_link NULL when it is none */
	int fd;
	uint32_t events;
	epoll_data_t data;
	bool in_kernel; /* the kernel's epoll has the descriptor too */
	bool ours;	/* the engine's half is watched */
	bool off;	/* EPOLLONESHOT has fired */
};

struct epoll {
	struct file file;
	int fd;	     /* a descriptor it has; the kernel's calls take the caller's */
	int wake_fd; /* wakes who sleeps in the kernel's epoll_wait(); -1: none yet */
	struct mutex lock;
	struct epitem *ready, **ready_tail;
	struct epitem *all;
	struct epitem *listening; /* those that are listeners */
	uint64_t lanes;		  /* that have sockets here */
	uint64_t lanes_watched;	  /* whose eventfd the kernel's epoll has */
	uint32_t on_lane[LANES_MAX];
	uint32_t sleepers;
	uint32_t calls; /* since the last look at the kernel */
	uint64_t looked_us;
	bool kernel_used;   /* the application has added files of the kernel's */
	struct epoll *next; /* in the pool */
};

static char magic;	   /* its address marks events that are not the application's */
static struct epoll *pool; /* under the process's lock */

/* ---- ready list; the epoll is locked ---- */

static void ready_add(struct epoll *ep, struct epitem *item)
{
	if (item->ready_link)
		return;
	item->ready_next = NULL;
	item->ready_link = ep->ready_tail;
	*ep->ready_tail = item;
	ep->ready_tail = &item->ready_next;
}

static void ready_remove(struct epoll *ep, struct epitem *item)
{
	if (!item->ready_link)
		return;
	*item->ready_link = item->ready_next;
	if (item->ready_next)
		item->ready_next->ready_link = item->ready_link;
	else
		ep->ready_tail = item->ready_link;
	item->ready_link = NULL;
}

static void epoll_kick(struct epoll *ep)
{
	uint64_t one = 1;

	if (ep->wake_fd >= 0 && syscall(SYS_write, ep->wake_fd, &one, sizeof(one)) < 0)
		return; /* full: it will wake */
}

/* What of the socket's state this item reports. */
static uint32_t item_events(const struct epitem *item)
{
	uint32_t wanted = (item->events & POLL_EVENTS) | EPOLLERR | EPOLLHUP;

	return item->off ? 0 : socket_events(item->s) & wanted;
}

void epoll_notify(struct socket *s)
{
	for (struct epitem *item = s->items; item; item = item->next) {
		struct epoll *ep = item->ep;
		bool kick;

		if (!item->ours)
			continue;
		mutex_lock(&ep->lock);
		if (item_events(item))
			ready_add(ep, item);
		kick = ep->sleepers && ep->ready;
		mutex_unlock(&ep->lock);
		if (kick)
			epoll_kick(ep);
	}
}

/* ---- items ---- */

static void lane_count(struct epoll *ep, unsigned lane, int change)
{
	ep->on_lane[lane] += (uint32_t)change;
	if (ep->on_lane[lane])
		__atomic_store_n(&ep->lanes, ep->lanes | 1ull << lane, __ATOMIC_RELAXED);
	else
		__atomic_store_n(&ep->lanes, ep->lanes & ~(1ull << lane), __ATOMIC_RELAXED);
}

/* The engine's half begins to be watched. Lane and epoll are locked. */
static void item_watch(struct epitem *item)
{
	struct epoll *ep = item->ep;

	item->ours = true;
	lane_count(ep, item->s->lane->index, 1);
	if (item_events(item))
		ready_add(ep, item);
}

/* A listener among them: epoll_wait() asks for its connections. */
static void item_listens(struct epitem *item)
{
	struct epoll *ep = item->ep;

	if (item->s->state != SOCKET_LISTENING || item->listen_link)
		return;
	item->listen_next = ep->listening;
	item->listen_link = &ep->listening;
	if (item->listen_next)
		item->listen_next->listen_link = &item->listen_next;
	ep->listening = item;
}

static void item_free(struct epitem *item)
{
	struct epoll *ep = item->ep;

	if (item->listen_link) {
		*item->listen_link = item->listen_next;
		if (item->listen_next)
			item->listen_next->listen_link = item->listen_link;
	}

	ready_remove(ep, item);
	if (item->ours) {
		lane_count(ep, item->s->lane->index, -1);
	}
	*item->link = item->next;
	if (item->next)
		item->next->link = item->link;
	*item->all_link = item->all_next;
	if (item->all_next)
		item->all_next->all_link = item->all_link;
	free(item);
}

static struct epitem *item_find(const struct socket *s, const struct epoll *ep, int fd)
{
	for (struct epitem *item = s->items; item; item = item->next)
		if (item->ep == ep && item->fd == fd)
			return item;
	return NULL;
}

void epoll_socket_gone(struct socket *s)
{
	while (s->items) {
		struct epoll *ep = s->items->ep;

		mutex_lock(&ep->lock);
		item_free(s->items);
		mutex_unlock(&ep->lock);
	}
}

/* The kernel's epoll lets go of it, unless the kernel's socket listens beside the engine. */
void epoll_socket_offloaded(struct socket *s)
{
	for (struct epitem *item = s->items; item; item = item->next) {
		struct epoll *ep = item->ep;

		mutex_lock(&ep->lock);
		if (item->in_kernel && !s->kernel_bound) {
			syscall(SYS_epoll_ctl, ep->fd, EPOLL_CTL_DEL, item->fd, NULL);
			item->in_kernel = false;
		}
		if (!item->ours)
			item_watch(item);
		item_listens(item);
		if (ep->sleepers)
			epoll_kick(ep);
		mutex_unlock(&ep->lock);
	}
}

void epoll_socket_moved(struct socket *s, struct lane *from, struct lane *to)
{
	for (struct epitem *item = s->items; item; item = item->next) {
		if (!item->ours)
			continue;
		mutex_lock(&item->ep->lock);
		lane_count(item->ep, from->index, -1);
		lane_count(item->ep, to->index, 1);
		if (item->ep->sleepers)
			epoll_kick(item->ep);
		mutex_unlock(&item->ep->lock);
	}
}

/* ---- create and destroy ---- */

void posix_epoll_create(int fd)
{
	struct epoll *ep;

	mutex_lock(&process.lock);
	ep = pool;
	if (ep)
		pool = ep->next;
	mutex_unlock(&process.lock);
	if (!ep)
		ep = calloc(1, sizeof(*ep));
	if (!ep || fdtable_init() < 0)
		return; /* without us it is the kernel's; our sockets cannot be added */
	*ep = (struct epoll){.file = {.kind = FILE_EPOLL, .refs = 1}, .fd = fd, .wake_fd = -1};
	ep->ready_tail = &ep->ready;
	fdtable_set(fd, &ep->file);
}

void epoll_destroy(struct epoll *ep)
{
	for (;;) {
		struct epitem *item;
		struct socket *s;
		struct lane *lane;

		mutex_lock(&ep->lock);
		item = ep->all;
		s = item ? item->s : NULL;
		mutex_unlock(&ep->lock);
		if (!item)
			break;
		lane = socket_lock(s, -1);
		if (!lane)
			continue; /* it is going: its items with it */
		mutex_lock(&ep->lock);
		if (ep->all == item && item->s == s)
			item_free(item);
		mutex_unlock(&ep->lock);
		socket_unlock(lane);
	}
	if (ep->wake_fd >= 0)
		syscall(SYS_close, ep->wake_fd);
	mutex_lock(&process.lock);
	ep->next = pool;
	pool = ep;
	mutex_unlock(&process.lock);
}

/* What it watched is the parent's; the kernel's files in it are still shared. */
void epoll_forget(struct epoll *ep)
{
	int fd = ep->fd;
	unsigned refs = atomic_load(&ep->file.refs);
	bool kernel_used = ep->kernel_used;

	*ep = (struct epoll){.file = {.kind = FILE_EPOLL, .refs = refs}, .fd = fd, .wake_fd = -1};
	ep->ready_tail = &ep->ready;
	ep->kernel_used = kernel_used;
}

/* ---- epoll_ctl() ---- */

/* Makes what a sleep needs: an eventfd of its own in the kernel's epoll. The epoll is locked. */
static int wake_prepare(struct epoll *ep, int epfd)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &magic};
	int fd;

	if (ep->wake_fd >= 0)
		return 0;
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_ADD, fd, &event) < 0) {
		int rc = -errno;

		syscall(SYS_close, fd);
		return rc;
	}
	/* When the engine goes, the control channel hangs up. */
	event.events = EPOLLRDHUP | EPOLLET;
	if (process.ft->control_fd >= 0)
		syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_ADD, process.ft->control_fd, &event);
	ep->wake_fd = fd;
	return 0;
}

static int item_add(struct epoll *ep, int epfd, struct socket *s, int fd, const struct epoll_event *event)
{
	bool kernel = !socket_offloaded(s) || s->kernel_bound;
	struct epitem *item;
	int rc = 0;

	if (item_find(s, ep, fd))
		return -EEXIST;
	item = calloc(1, sizeof(*item));
	if (!item)
		return -ENOMEM;
	if (kernel && syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_ADD, fd, event) < 0)
		rc = -errno;
	if (rc == 0)
		rc = wake_prepare(ep, epfd);
	if (rc < 0) {
		free(item);
		return rc;
	}
	item->ep = ep;
	item->s = s;
	item->fd = fd;
	item->events = event->events;
	item->data = event->data;
	item->in_kernel = kernel;
	ep->kernel_used |= kernel;
	item->next = s->items;
	item->link = &s->items;
	if (item->next)
		item->next->link = &item->next;
	s->items = item;
	item->all_next = ep->all;
	item->all_link = &ep->all;
	if (item->all_next)
		item->all_next->all_link = &item->all_next;
	ep->all = item;
	if (socket_offloaded(s))
		item_watch(item);
	item_listens(item);
	return 0;
}

static int item_modify(struct epoll *ep, int epfd, struct epitem *item, const struct epoll_event *event)
{
	if (item->in_kernel && syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_MOD, item->fd, event) < 0)
		return -errno;
	item->events = event->events;
	item->data = event->data;
	item->off = false;
	if (item->ours && item_events(item))
		ready_add(ep, item);
	return 0;
}

int posix_epoll_ctl(struct epoll *ep, int epfd, int op, int fd, struct epoll_event *event)
{
	struct socket *s = socket_of(fd);
	struct epitem *item;
	struct lane *lane;
	bool kick;
	int rc;

	if (!s || s->state == SOCKET_KERNEL) {
		if (op == EPOLL_CTL_ADD)
			ep->kernel_used = true;
		if (!s || !s->items)
			return PASS_TO_KERNEL;
	}
	if (!event && op != EPOLL_CTL_DEL)
		return -EFAULT;
	lane = socket_lock(s, fd);
	if (!lane)
		return -EBADF;
	if (op != EPOLL_CTL_DEL)
		socket_adopt(s, &lane);
	if (!lane)
		return -EBADF;
	lane_drain(lane);
	mutex_lock(&ep->lock);
	item = item_find(s, ep, fd);
	if (op == EPOLL_CTL_ADD) {
		rc = item_add(ep, epfd, s, fd, event);
	} else if (!item) {
		rc = s->state == SOCKET_KERNEL ? PASS_TO_KERNEL : -ENOENT;
	} else if (op == EPOLL_CTL_MOD) {
		rc = item_modify(ep, epfd, item, event);
	} else if (op == EPOLL_CTL_DEL) {
		if (item->in_kernel)
			syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_DEL, fd, NULL);
		item_free(item);
		if (!s->items && !s->waiting)
			listener_ask_no_more(s);
		rc = 0;
	} else {
		rc = -EINVAL;
	}
	kick = ep->sleepers && op != EPOLL_CTL_DEL; /* a sleeper may have a new lane to sleep on */
	mutex_unlock(&ep->lock);
	socket_unlock(lane);
	if (kick)
		epoll_kick(ep);
	return rc;
}

/* ---- epoll_wait() ---- */

/* Takes what is ready of ours. */
static int ready_collect(struct epoll *ep, struct epoll_event *events, int max)
{
	struct epitem *again = NULL, **again_tail = &again;
	int n = 0;

	mutex_lock(&ep->lock);
	while (ep->ready && n < max) {
		struct epitem *item = ep->ready;
		uint32_t now;

		ready_remove(ep, item);
		now = item_events(item);
		if (!now)
			continue;
		events[n].events = now;
		events[n++].data = item->data;
		if (item->events & EPOLLONESHOT) {
			item->off = true;
		} else if (!(item->events & EPOLLET)) {
			/* Level-triggered: it is asked again next time, after the others. */
			item->ready_next = NULL;
			item->ready_link = again_tail;
			*again_tail = item;
			again_tail = &item->ready_next;
		}
	}
	if (again) {
		again->ready_link = ep->ready_tail;
		*ep->ready_tail = again;
		ep->ready_tail = again_tail;
	}
	mutex_unlock(&ep->lock);
	return n;
}

/* Asks the kernel; events that are not the application's are left out. negative errno or a count. */
static int kernel_collect(struct epoll *ep, int epfd, struct epoll_event *events, int max,
	uint64_t timeout_us, const sigset_t *sigmask)
{
	struct timespec ts = {
		.tv_sec = (time_t)(timeout_us / 1000000), .tv_nsec = (long)(timeout_us % 1000000 * 1000)};
	int n = (int)syscall(SYS_epoll_pwait2, epfd, events, max, timeout_us == DEADLINE_NEVER ? NULL : &ts,
		sigmask, sizeof(unsigned long));
	int kept = 0;

	if (n < 0 && errno == ENOSYS)
		n = (int)syscall(SYS_epoll_pwait, epfd, events, max,
			timeout_us == DEADLINE_NEVER ? -1 : (int)((timeout_us + 999) / 1000), sigmask,
			sizeof(unsigned long));
	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++) {
		if (events[i].data.ptr != &magic)
			events[kept++] = events[i];
		else if (events[i].events & (EPOLLHUP | EPOLLRDHUP))
			attach_check_dead(process.ft);
	}
	ep->calls = 0;
	ep->looked_us = clock_us();
	return kept;
}

/* The eventfds of the lanes its sockets live on, in the kernel's epoll. */
static void lanes_watch(struct epoll *ep, int epfd, uint64_t lanes)
{
	uint64_t fresh = lanes & ~ep->lanes_watched;

	for (; fresh; fresh &= fresh - 1) {
		unsigned index = (unsigned)__builtin_ctzll(fresh);
		struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = &magic};

		syscall(SYS_epoll_ctl, epfd, EPOLL_CTL_ADD, lane_at(index)->ctx->wake_fd, &event);
	}
	__atomic_store_n(&ep->lanes_watched, ep->lanes_watched | lanes, __ATOMIC_RELAXED);
}

static void lanes_service(uint64_t lanes)
{
	for (; lanes; lanes &= lanes - 1)
		lane_service(lane_at((unsigned)__builtin_ctzll(lanes)));
}

/* Listeners that have no connection for us ask for some: one after the other, since that may wait. */
static void listeners_visit(struct epoll *ep)
{
	struct socket *s;

	do {
		s = NULL;
		mutex_lock(&ep->lock);
		for (struct epitem *item = ep->listening; item && !s; item = item->listen_next)
			if (!item->off && (item->events & EPOLLIN) && listener_needs(item->s))
				s = item->s;
		mutex_unlock(&ep->lock);
		if (s)
			listener_visit(s);
	} while (s && !listener_needs(s));
}

static int epoll_sleep(struct epoll *ep, int epfd, struct epoll_event *events, int max, uint64_t deadline_us,
	const sigset_t *sigmask)
{
	uint64_t lanes = __atomic_load_n(&ep->lanes, __ATOMIC_RELAXED);
	struct sleeper sleeper;
	int n = 0;

	mutex_lock(&ep->lock);
	if (lanes & ~ep->lanes_watched)
		lanes_watch(ep, epfd, lanes);
	ep->sleepers++;
	mutex_unlock(&ep->lock);
	if (!sleeper_begin(&sleeper, lanes, ep->wake_fd) && !__atomic_load_n(&ep->ready, __ATOMIC_ACQUIRE) &&
		__atomic_load_n(&ep->lanes, __ATOMIC_RELAXED) == lanes) {
		uint64_t now = deadline_us == DEADLINE_NEVER ? 0 : clock_us();
		uint64_t left = deadline_us == DEADLINE_NEVER ? DEADLINE_NEVER
				: deadline_us > now	      ? deadline_us - now
							      : 0;

		n = kernel_collect(ep, epfd, events, max, left, sigmask);
	}
	sleeper_end(&sleeper);
	mutex_lock(&ep->lock);
	ep->sleepers--;
	mutex_unlock(&ep->lock);
	return n;
}

/* Is it time to look at the kernel's files, although ours keep us busy? */
static bool kernel_due(struct epoll *ep)
{
	uint64_t now;

	if (!ep->kernel_used)
		return false;
	if (++ep->calls >= KERNEL_LOOK_CALLS)
		return true;
	now = clock_us();
	return now - ep->looked_us >= KERNEL_LOOK_US;
}

int posix_epoll_wait(struct epoll *ep, int epfd, struct epoll_event *events, int max, uint64_t deadline_us,
	const sigset_t *sigmask)
{
	if (max <= 0)
		return -EINVAL;
	if (!events)
		return -EFAULT;
	for (;;) {
		int n = 0;

		if (ep->listening)
			listeners_visit(ep);
		lanes_service(__atomic_load_n(&ep->lanes, __ATOMIC_RELAXED));
		if (__atomic_load_n(&ep->ready, __ATOMIC_ACQUIRE)) {
			/* The kernel's first, in a part of the array: neither side can starve the other. */
			if (kernel_due(ep)) {
				n = kernel_collect(ep, epfd, events, max > 1 ? max / 2 : 1, 0, NULL);
				n = n > 0 ? n : 0;
			}
			if (n < max)
				n += ready_collect(ep, events + n, max - n);
			if (n) {
				if (ep->sleepers && __atomic_load_n(&ep->ready, __ATOMIC_ACQUIRE))
					epoll_kick(ep); /* another thread may take the rest */
				return n;
			}
		}
		if (deadline_us == 0 || (deadline_us != DEADLINE_NEVER && clock_us() >= deadline_us)) {
			/* Asked even if only we have files there: poll() on the descriptor would go on
			 * firing. */
			n = kernel_collect(ep, epfd, events, max, 0, sigmask);
			return n;
		}
		if (!ep->lanes || !sleeper_spin(ep->lanes, deadline_us)) {
			n = epoll_sleep(ep, epfd, events, max, heirs_deadline(deadline_us), sigmask);
			if (n)
				return n;
		}
	}
}

bool epoll_ready(struct epoll *ep, uint64_t *lanes)
{
	struct epitem *item;
	bool ready = false;

	*lanes |= __atomic_load_n(&ep->lanes, __ATOMIC_RELAXED);
	mutex_lock(&ep->lock);
	for (item = ep->ready; item && !ready; item = item->ready_next)
		ready = item_events(item) != 0;
	mutex_unlock(&ep->lock);
	return ready;
}
