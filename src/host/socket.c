/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a socket of ours: its memory, its lock, waiting in it, what poll() would say of it, the events
 * that come for it, moving it to another thread's lane, and its end. What applications do with it is in
 * endpoint.c (names and opening), transfer.c (bytes) and sockopt.c.
 */
#include "host/posix.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define POOL_GROW 64u

_Static_assert(offsetof(struct socket, conn) - offsetof(struct socket, generation) == 2 * sizeof(void *) ||
		       offsetof(struct socket, conn) - offsetof(struct socket, generation) ==
			       sizeof(uint32_t) + sizeof(void *),
	"generation, lane and conn follow each other: see socket_alloc()");

static struct socket *pool; /* under the process's lock */

struct socket *socket_alloc(struct lane *lane)
{
	struct socket *s;

	mutex_lock(&process.lock);
	if (!pool) {
		struct socket *slab = mmap(NULL, POOL_GROW * sizeof(*slab), PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		for (unsigned i = 0; slab != MAP_FAILED && i < POOL_GROW; i++) {
			slab[i].next = pool;
			pool = &slab[i];
		}
	}
	s = pool;
	if (s)
		pool = s->next;
	mutex_unlock(&process.lock);
	if (!s)
		return NULL;
	/* Who waited in its last life may look at it still, to see another generation, and lock its lane:
	   these two are never anything in between. */
	memset(s, 0, offsetof(struct socket, generation));
	memset(&s->conn, 0, sizeof(*s) - offsetof(struct socket, conn));
	s->file.kind = FILE_SOCKET;
	s->file.refs = 1;
	s->fd = s->hold_fd = -1;
	s->accept_tail = &s->accept_head;
	s->linger2_s = 60;
	s->keep_idle_s = 7200;
	s->keep_interval_s = 75;
	s->keep_count = 9;
	s->syncnt = 6;
	s->ttl = 64;
	s->quickack = true;
	__atomic_store_n(&s->lane, lane, __ATOMIC_RELEASE);
	__atomic_store_n(&s->state, SOCKET_UNDECIDED, __ATOMIC_RELEASE);
	return s;
}

/* ---- lock ---- */

/* The first use after fork(): from now on the notifications come here. The lane is locked. */
static void inherited_take(struct socket *s)
{
	s->inherited = false;
	s->conn->hc_flags |= FLEXTOE_HC_NOTIFY_HERE;
	conn_dirty(s->conn);
	context_flush(s->conn->ctx);
}

struct lane *socket_lock(struct socket *s, int fd)
{
	for (;;) {
		struct lane *lane = __atomic_load_n(&s->lane, __ATOMIC_ACQUIRE);

		mutex_lock(&lane->lock);
		if (unlikely(__atomic_load_n(&s->lane, __ATOMIC_RELAXED) != lane)) {
			mutex_unlock(&lane->lock); /* it has moved */
			continue;
		}
		if (likely(s->state != SOCKET_FREE && (fd < 0 || file_of(fd) == &s->file))) {
			if (unlikely(s->inherited && fd >= 0))
				inherited_take(s);
			return lane;
		}
		mutex_unlock(&lane->lock);
		return NULL;
	}
}

void socket_unlock(struct lane *lane)
{
	if (lane)
		mutex_unlock(&lane->lock);
}

/* ---- what is true of it ---- */

static unsigned connected_events(const struct socket *s, const struct flextoe_conn *conn)
{
	unsigned flags = __atomic_load_n(&conn->ntf_flags, __ATOMIC_ACQUIRE), events = 0;
	bool ended = flags & FLEXTOE_NTF_ERROR;
	bool shut_rd = __atomic_load_n(&s->shut_rd, __ATOMIC_ACQUIRE);
	bool shut_wr = __atomic_load_n(&s->shut_wr, __ATOMIC_ACQUIRE);

	if (conn_rx_bytes(conn))
		events |= POLLIN | POLLRDNORM;
	if (conn->tx_head == __atomic_load_n(&conn->tx_tail, __ATOMIC_RELAXED))
		events |= SOCKET_SENT;
	if (conn_rx_bytes(conn) >= s->rx_wanted)
		events |= SOCKET_RX_WANTED;
	if (ended || shut_rd || (flags & FLEXTOE_NTF_FIN))
		events |= POLLIN | POLLRDNORM | POLLRDHUP;
	if (ended || shut_wr || conn_writable(conn))
		events |= POLLOUT | POLLWRNORM;
	if (ended || (shut_wr && (shut_rd || (flags & FLEXTOE_NTF_FIN))))
		events |= POLLHUP;
	if (ended && !s->error_told)
		events |= POLLERR;
	return events;
}

unsigned socket_events(const struct socket *s)
{
	const struct flextoe_conn *conn = __atomic_load_n(&s->conn, __ATOMIC_ACQUIRE);
	unsigned events = __atomic_load_n(&s->answered, __ATOMIC_ACQUIRE) ? SOCKET_ANSWERED : 0;

	switch (__atomic_load_n(&s->state, __ATOMIC_ACQUIRE)) {
	case SOCKET_LISTENING:
		return events |
		       (__atomic_load_n(&s->accept_head, __ATOMIC_RELAXED) ? POLLIN | POLLRDNORM : 0) |
		       (s->lane->dead ? POLLERR : 0);
	case SOCKET_CONNECTED:
		return events | (conn ? connected_events(s, conn) : 0);
	case SOCKET_CONNECTING:
		return events;
	case SOCKET_FAILED:
		return events | POLLIN | POLLRDNORM | POLLRDHUP | POLLOUT | POLLWRNORM | POLLHUP |
		       (s->error ? POLLERR : 0);
	default:
		return events | POLLOUT | POLLWRNORM | POLLHUP;
	}
}

int socket_take_error(struct socket *s)
{
	int error = s->error;

	s->error = 0;
	if (!error && s->conn && (s->conn->ntf_flags & FLEXTOE_NTF_ERROR) && !s->error_told) {
		s->error_told = true;
		error = s->conn->error;
		/* As Linux: a reset after the peer's end of stream is a broken pipe. */
		if (error == ECONNRESET && (s->conn->ntf_flags & FLEXTOE_NTF_FIN))
			error = EPIPE;
	}
	return -error;
}

/* ---- what happens to it ---- */

static void accept_event(struct lane *lane, struct socket *s, struct flextoe_conn *conn)
{
	(void)lane;
	conn->opaque = NULL;
	conn->next = NULL;
	heir_conn_opened(conn);
	if (!s) {
		flextoe_conn_abort(conn);
		return;
	}
	__atomic_store_n(s->accept_tail, conn, __ATOMIC_RELAXED); /* socket_events() looks */
	s->accept_tail = &conn->next;
	s->accept_count++;
	epoll_notify(s);
}

static void connect_failed_event(struct socket *s, int error)
{
	struct flextoe_conn *conn = s->conn;

	s->error = error;
	s->conn = NULL;
	__atomic_store_n(&s->state, SOCKET_FAILED, __ATOMIC_RELEASE);
	if (conn)
		flextoe_conn_close(conn);
}

void socket_event(struct lane *lane, const struct flextoe_event *event)
{
	struct socket *s = event->opaque;

	if (event->type == FLEXTOE_EVENT_ACCEPT) {
		accept_event(lane, s, event->conn);
		return;
	}
	if (!s)
		return;
	switch ((int)event->type) {
	case HOST_EVENT_BOUND:
	case FLEXTOE_EVENT_LISTENING:
		s->answer_error = event->error;
		__atomic_store_n(&s->answered, true, __ATOMIC_RELEASE);
		return;
	case FLEXTOE_EVENT_OPEN:
		if (s->listener) { /* the connection has the port now */
			flextoe_listener_close(s->listener);
			s->listener = NULL;
		}
		s->local.sin_addr.s_addr = event->conn->local_addr;
		s->local.sin_port = event->conn->local_port;
		heir_conn_opened(event->conn);
		__atomic_store_n(&s->state, SOCKET_CONNECTED, __ATOMIC_RELEASE);
		sockopt_apply(s);
		break;
	case FLEXTOE_EVENT_ERROR:
		if (s->state == SOCKET_CONNECTING)
			connect_failed_event(s, event->error);
		break;
	default:
		break;
	}
	if (s->items)
		epoll_notify(s);
}

void socket_lane_died(struct lane *lane)
{
	for (int fd = 0; fd < fdtable_used; fd++) {
		struct socket *s = socket_here(fd);

		if (!s || s->lane != lane)
			continue;
		s->answer_error = ENETDOWN;
		__atomic_store_n(&s->answered, true, __ATOMIC_RELEASE);
		if (s->state == SOCKET_CONNECTING) {
			connect_failed_event(s, ENETDOWN);
		} else if (s->conn) {
			if (!(s->conn->ntf_flags & FLEXTOE_NTF_ERROR))
				s->conn->error = ECONNRESET;
			s->conn->ntf_flags |= FLEXTOE_NTF_ERROR;
		}
		epoll_notify(s);
	}
}

/* ---- moving ---- */

void socket_adopt(struct socket *s, struct lane **lane)
{
	struct lane *from = *lane, *to = lane_mine();
	uint32_t generation = s->generation;

	if (!to || to == from || s->state != SOCKET_CONNECTED || to->dead || from->dead)
		return;
	if (to->index > from->index) {
		mutex_lock(&to->lock);
	} else {
		mutex_unlock(&from->lock);
		mutex_lock(&to->lock);
		mutex_lock(&from->lock);
		if (s->lane != from || s->generation != generation || s->state != SOCKET_CONNECTED) {
			mutex_unlock(&to->lock);
			if (s->lane == from && s->generation == generation)
				return;
			mutex_unlock(&from->lock);
			*lane = s->generation == generation ? socket_lock(s, -1) : NULL;
			return;
		}
	}
	conn_move(s->conn, to->ctx);
	__atomic_store_n(&s->lane, to, __ATOMIC_RELEASE);
	epoll_socket_moved(s, from, to);
	context_flush(to->ctx);
	if (from->waiters) /* who waits for this socket has to wait elsewhere */
		lane_wake(from);
	mutex_unlock(&from->lock);
	*lane = to;
}

/* ---- waiting ---- */

struct wait {
	const struct socket *s;
	const struct lane *lane;
	uint32_t generation;
	unsigned events;
};

static bool wait_ready(const void *arg)
{
	const struct wait *wait = arg;
	const struct socket *s = wait->s;

	return __atomic_load_n(&s->generation, __ATOMIC_ACQUIRE) != wait->generation ||
	       __atomic_load_n(&s->lane, __ATOMIC_ACQUIRE) != wait->lane ||
	       (socket_events(s) & (wait->events | POLLERR));
}

int socket_wait(struct socket *s, struct lane **lane, unsigned events, uint64_t deadline_us)
{
	struct pollfd kernel = {.fd = s->fd, .events = POLLIN};
	struct wait wait = {.s = s, .generation = s->generation, .events = events};
	struct sleep sleep = {.deadline_us = deadline_us, .ready = wait_ready, .arg = &wait};
	bool counted = false;
	int rc = 0;

	for (;;) {
		struct lane *home;

		lane_drain(*lane);
		if (socket_events(s) & (events | POLLERR))
			break;
		rc = -EAGAIN;
		if (deadline_us != DEADLINE_NEVER && clock_us() >= deadline_us)
			goto out;
		if (!counted) {
			if (!s->waiting && !(events & SOCKET_ANSWERED))
				socket_adopt(s, lane);
			if (!*lane || s->generation != wait.generation)
				goto gone;
			s->waiting++;
			counted = true;
		}
		home = *lane;
		wait.lane = home;
		sleep.mask = 1ull << home->index;
		mutex_unlock(&home->lock);
		rc = sleeper_poll(&sleep, &kernel, s->state == SOCKET_LISTENING && s->kernel_bound);
		*lane = socket_lock(s, -1);
		if (!*lane || s->generation != wait.generation)
			goto gone;
		if (rc < 0 && rc != -EINTR)
			goto out;
		if (rc == -EINTR && (deadline_us != DEADLINE_NEVER || !signals_restart()))
			goto out;
		if (rc > 0)
			break; /* the kernel's half of a listener */
	}
	rc = 0;
out:
	if (counted)
		s->waiting--;
	return rc;
gone:
	socket_unlock(*lane);
	*lane = NULL;
	return -EBADF;
}

int socket_answer(struct socket *s, struct lane **lane)
{
	int rc;

	context_flush((*lane)->ctx);
	do
		rc = socket_wait(s, lane, SOCKET_ANSWERED, DEADLINE_NEVER);
	while (rc == -EINTR || (rc == 0 && !s->answered && !(*lane)->dead));
	if (rc < 0)
		return rc;
	rc = s->answered ? -s->answer_error : -ENETDOWN;
	s->answered = false;
	return rc;
}

/* ---- the end ---- */

void accept_queue_reset(struct socket *s)
{
	struct flextoe_conn *conn;

	while ((conn = s->accept_head)) {
		s->accept_head = conn->next;
		flextoe_conn_abort(conn);
	}
	s->accept_tail = &s->accept_head;
	s->accept_count = 0;
}

void socket_free(struct socket *s)
{
	mutex_lock(&process.lock);
	s->next = pool;
	pool = s;
	mutex_unlock(&process.lock);
}

/*
 * close() with SO_LINGER and a time: waits until the peer has acknowledged everything, a non-blocking
 * socket's too, as in Linux. Nobody else can name the socket any more. *lane as in socket_wait(), and locked.
 */
static void linger(struct socket *s, struct lane **lane)
{
	uint64_t deadline = deadline_after_us((uint64_t)s->linger_s * 1000000u);

	if (process_is_exiting() || (s->conn->ntf_flags & (FLEXTOE_NTF_ERROR | FLEXTOE_NTF_CLOSED)))
		return;
	flextoe_shutdown(s->conn);
	context_flush((*lane)->ctx);
	socket_wait(s, lane, SOCKET_SENT, deadline);
}

void socket_destroy(struct socket *s)
{
	struct lane *lane = socket_lock(s, -1);

	if (!lane)
		return;
	if (s->items)
		epoll_socket_gone(s);
	accept_queue_reset(s);
	kept_end(s); /* before the UNBIND: the engine sees that nobody holds it */
	if (s->listener)
		flextoe_listener_close(s->listener);
	if (s->conn) {
		struct flextoe_conn *conn = s->conn;

		if (heir_conn_shared(conn))
			conn_forget(conn);
		else if (s->linger_on && s->linger_s == 0)
			flextoe_conn_abort(conn);
		else {
			if (s->linger_on)
				linger(s, &lane);
			flextoe_conn_close(conn);
		}
	}
	s->conn = NULL;
	s->listener = NULL;
	__atomic_store_n(&s->generation, s->generation + 1, __ATOMIC_RELEASE);
	__atomic_store_n(&s->state, SOCKET_FREE, __ATOMIC_RELEASE);
	context_flush(lane->ctx);
	if (s->waiting)
		lane_wake(lane);
	mutex_unlock(&lane->lock);
	socket_free(s);
}
