/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Names and opening: socket(), bind(), listen(), accept(), connect(), shutdown() and the two names. Here it
 * is decided whether a socket is the engine's or the kernel's: by the address it is bound to or connects to.
 * A listener on any address is both. Called on any thread; the decision is made under the socket's lock.
 */
#include "host/posix.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIND_ATTEMPTS 16 /* for a port that is free in the engine and in the kernel */

/* ---- addresses ---- */

enum address_kind {
	ADDRESS_IPV4,  /* or IPv4-mapped */
	ADDRESS_ANY,   /* any address of both families, or of IPv4 */
	ADDRESS_OTHER, /* only the kernel can say something about it */
};

static enum address_kind address_read(
	const struct socket *s, const struct sockaddr *addr, socklen_t len, struct sockaddr_in *out)
{
	*out = (struct sockaddr_in){.sin_family = AF_INET};
	if (!s->domain_is_ipv6) {
		if (len < sizeof(*out) || addr->sa_family != AF_INET)
			return ADDRESS_OTHER;
		memcpy(out, addr, sizeof(*out));
		return out->sin_addr.s_addr == INADDR_ANY ? ADDRESS_ANY : ADDRESS_IPV4;
	}
	if (len >= sizeof(struct sockaddr_in6) && addr->sa_family == AF_INET6 && !s->v6only) {
		struct sockaddr_in6 in6;

		memcpy(&in6, addr, sizeof(in6));
		out->sin_port = in6.sin6_port;
		if (IN6_IS_ADDR_UNSPECIFIED(&in6.sin6_addr))
			return ADDRESS_ANY;
		if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
			memcpy(&out->sin_addr, &in6.sin6_addr.s6_addr[12], 4);
			return out->sin_addr.s_addr == INADDR_ANY ? ADDRESS_ANY : ADDRESS_IPV4;
		}
	}
	return ADDRESS_OTHER;
}

/* As the kernel writes names: cut to the caller's length, the full length told. */
static void address_write(
	const struct socket *s, uint32_t ip, uint16_t port, bool any, struct sockaddr *addr, socklen_t *len)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = ip};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = port};
	socklen_t size = s->domain_is_ipv6 ? sizeof(in6) : sizeof(in);

	if (!addr || !len)
		return;
	if (!any || ip) {
		in6.sin6_addr.s6_addr[10] = in6.sin6_addr.s6_addr[11] = 0xff;
		memcpy(&in6.sin6_addr.s6_addr[12], &ip, 4);
	}
	memcpy(addr, s->domain_is_ipv6 ? (void *)&in6 : (void *)&in, *len < size ? *len : size);
	*len = size;
}

/* ---- socket() ---- */

int posix_socket(int fd, int domain, int type)
{
	struct lane *lane = lane_mine();
	struct socket *s;

	if (!lane)
		return 0; /* it stays the kernel's */
	s = socket_alloc(lane);
	if (!s)
		return 0;
	s->domain_is_ipv6 = domain == AF_INET6;
	s->nonblock = type & SOCK_NONBLOCK;
	s->fd = fd;
	if (!fdtable_set(fd, &s->file)) {
		s->file.refs = 0;
		socket_destroy(s);
	}
	return 0;
}

/* ---- bind() ---- */

/* Reserves an address and port at the engine. The lane is locked. */
static int engine_bind(struct socket *s, struct lane **lane, const struct sockaddr_in *local)
{
	unsigned flags =
		(s->reuse_addr ? FLEXTOE_BIND_REUSEADDR : 0) | (s->reuse_port ? FLEXTOE_BIND_REUSEPORT : 0);
	int rc;

	s->answered = false;
	rc = listener_bind((*lane)->ctx, local, flags, s, &s->listener);
	if (rc < 0)
		return rc == -EIO ? -ENETDOWN : rc;
	rc = socket_answer(s, lane);
	if (!*lane)
		return rc;
	if (rc < 0) {
		flextoe_listener_close(s->listener);
		s->listener = NULL;
		return rc;
	}
	flextoe_listener_address(s->listener, &s->local);
	return 0;
}

static void engine_unbind(struct socket *s, struct lane *lane)
{
	flextoe_listener_close(s->listener);
	s->listener = NULL;
	context_flush(lane->ctx);
}

static int kernel_bind(const struct socket *s, int fd, uint16_t port)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = port};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = port};
	const void *addr = s->domain_is_ipv6 ? (const void *)&in6 : (const void *)&in;

	return syscall(SYS_bind, fd, addr, s->domain_is_ipv6 ? sizeof(in6) : sizeof(in)) < 0 ? -errno : 0;
}

/* The same port of any address at the engine and in the kernel. */
static int bind_both(struct socket *s, struct lane **lane, int fd, const struct sockaddr_in *local)
{
	int rc = -EADDRINUSE;

	for (int attempt = 0; attempt < BIND_ATTEMPTS; attempt++) {
		rc = engine_bind(s, lane, local);
		if (rc < 0)
			return rc;
		rc = kernel_bind(s, fd, s->local.sin_port);
		if (rc == 0) {
			s->any = s->kernel_bound = true;
			return 0;
		}
		engine_unbind(s, *lane);
		if (rc != -EADDRINUSE || local->sin_port != 0)
			break;
	}
	return rc;
}

static void socket_offload(struct socket *s, enum socket_state state)
{
	__atomic_store_n(&s->state, (uint8_t)state, __ATOMIC_RELEASE);
	if (s->items)
		epoll_socket_offloaded(s);
}

int posix_bind(struct socket *s, int fd, const struct sockaddr *addr, socklen_t len)
{
	struct lane *lane = socket_lock(s, fd);
	struct sockaddr_in local;
	enum address_kind kind;
	int rc;

	if (!lane)
		return -EBADF;
	kind = address_read(s, addr, len, &local);
	if (s->state == SOCKET_KERNEL) {
		rc = PASS_TO_KERNEL;
	} else if (s->state != SOCKET_UNDECIDED) {
		rc = -EINVAL;
	} else if (kind == ADDRESS_ANY) {
		rc = bind_both(s, &lane, fd, &local);
	} else if (kind == ADDRESS_IPV4 && process_owns(local.sin_addr.s_addr)) {
		rc = engine_bind(s, &lane, &local);
	} else {
		rc = syscall(SYS_bind, fd, addr, len) < 0 ? -errno : 0;
		if (rc == 0)
			s->state = SOCKET_KERNEL;
		socket_unlock(lane);
		return rc;
	}
	if (rc == 0)
		socket_offload(s, SOCKET_BOUND);
	socket_unlock(lane);
	return rc;
}

/* ---- listen() ---- */

/* The kernel's half must never make accept() wait. */
static int kernel_listen(int fd, int backlog)
{
	long flags = syscall(SYS_fcntl, fd, F_GETFL, 0);

	if (flags < 0 || syscall(SYS_fcntl, fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
		syscall(SYS_listen, fd, backlog) < 0)
		return -errno;
	return 0;
}

int posix_listen(struct socket *s, int fd, int backlog)
{
	struct lane *lane = socket_lock(s, fd);
	struct sockaddr_in any = {.sin_family = AF_INET};
	int rc = 0;

	if (!lane)
		return -EBADF;
	if (s->state == SOCKET_KERNEL || s->v6only) {
		s->state = s->state == SOCKET_UNDECIDED ? SOCKET_KERNEL : s->state;
		socket_unlock(lane);
		return PASS_TO_KERNEL;
	}
	if (s->state != SOCKET_UNDECIDED && s->state != SOCKET_BOUND && s->state != SOCKET_LISTENING) {
		rc = -EINVAL;
		goto out;
	}
	if (s->state == SOCKET_UNDECIDED) {
		rc = bind_both(s, &lane, fd, &any);
		if (rc < 0)
			goto out;
		socket_offload(s, SOCKET_BOUND);
	}
	if (backlog < 0 || backlog > SOMAXCONN)
		backlog = SOMAXCONN;
	s->answered = false;
	options_before_listen(s);
	/* The kernel and so everybody who measures takes one more than it is asked for. */
	rc = listener_listen(s->listener, backlog + 1, 0, 0);
	if (rc == 0)
		rc = socket_answer(s, &lane);
	if (rc == 0 && s->kernel_bound)
		rc = kernel_listen(fd, backlog);
	if (rc == 0) {
		s->endpoint = s->listener->endpoint;
		memcpy(s->token, s->listener->token, sizeof(s->token));
		s->backlog = backlog + 1;
		kept_begin(s, fd);
		__atomic_store_n(&s->state, SOCKET_LISTENING, __ATOMIC_RELEASE);
		if (s->items)
			epoll_socket_offloaded(s);
	}
out:
	socket_unlock(lane);
	return rc;
}

/* ---- accept() ---- */

/*
 * Makes a descriptor and a socket for the first connection that waits. The lane is locked. The caller puts
 * the socket into the table of descriptors without the lock, since that may end a stale socket of that
 * number.
 */
static int accept_take(struct socket *s, struct lane *lane, struct sockaddr *addr, socklen_t *len, int flags,
	struct socket **out)
{
	struct flextoe_conn *conn = s->accept_head;
	struct socket *new;
	int fd = (int)syscall(
		SYS_fcntl, process.placeholder_fd, flags & SOCK_CLOEXEC ? F_DUPFD_CLOEXEC : F_DUPFD, 0);

	if (fd < 0)
		return -errno;
	new = socket_alloc(lane);
	if (!new) {
		syscall(SYS_close, fd);
		return -ENOMEM;
	}
	__atomic_store_n(&s->accept_head, conn->next, __ATOMIC_RELAXED);
	if (!s->accept_head)
		s->accept_tail = &s->accept_head;
	s->accept_count--;
	/* What an accepted socket has of its listener, as in Linux. */
	new->domain_is_ipv6 = s->domain_is_ipv6;
	new->nonblock = flags &SOCK_NONBLOCK;
	new->nodelay = s->nodelay;
	new->keepalive = s->keepalive;
	new->cork = s->cork;
	new->options_set = s->options_set; /* the engine has given it the listener's */
	new->linger_on = s->linger_on;
	new->linger_s = s->linger_s;
	new->rcv_timeout_us = s->rcv_timeout_us;
	new->snd_timeout_us = s->snd_timeout_us;
	new->sndbuf = s->sndbuf;
	new->rcvbuf = s->rcvbuf;
	new->reuse_addr = s->reuse_addr;
	new->reuse_port = s->reuse_port;
	new->keep_idle_s = s->keep_idle_s;
	new->keep_interval_s = s->keep_interval_s;
	new->keep_count = s->keep_count;
	new->user_timeout_ms = s->user_timeout_ms;
	new->tos = s->tos;
	new->ttl = s->ttl;
	new->linger2_s = s->linger2_s;
	new->maxseg = s->maxseg;
	new->congestion = s->congestion;
	new->local.sin_addr.s_addr = conn->local_addr;
	new->local.sin_port = conn->local_port;
	conn->next = NULL;
	conn->opaque = new;
	conn_accepted(conn);
	__atomic_store_n(&new->conn, conn, __ATOMIC_RELEASE);
	__atomic_store_n(&new->state, SOCKET_CONNECTED, __ATOMIC_RELEASE);
	sockopt_apply(new);
	context_flush(lane->ctx);
	address_write(new, conn->remote_addr, conn->remote_port, false, addr, len);
	if (s->waiting || !s->shared)
		listener_ask(s);
	*out = new;
	return fd;
}

int posix_accept(struct socket *s, int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	struct lane *lane = socket_lock(s, fd);
	uint64_t deadline = DEADLINE_NEVER;
	struct socket *new = NULL;
	int rc;

	if (!lane)
		return -EBADF;
	if (s->rcv_timeout_us)
		deadline = deadline_after_us(s->rcv_timeout_us);
	heirs_reap();
	for (;;) {
		rc = s->state == SOCKET_KERNEL || s->state == SOCKET_UNDECIDED ? PASS_TO_KERNEL : -EINVAL;
		if (s->state != SOCKET_LISTENING)
			break;
		if (!s->accept_head)
			lane_drain(lane);
		if (!s->accept_head)
			listener_ready(s, &lane);
		if (!lane)
			return -EBADF;
		if (s->accept_head) {
			rc = accept_take(s, lane, addr, len, flags, &new);
			break;
		}
		rc = -EAGAIN;
		if (s->kernel_bound)
			rc = (int)syscall(SYS_accept4, fd, addr, len, flags);
		if (s->kernel_bound && rc < 0)
			rc = -errno;
		if (rc != -EAGAIN)
			break;
		if (lane->dead && !s->kernel_bound)
			rc = -ENETDOWN;
		if (s->nonblock || rc != -EAGAIN)
			break;
		rc = socket_wait(s, &lane, POLLIN, deadline);
		if (rc < 0)
			break;
	}
	socket_unlock(lane);
	if (new && !fdtable_set(rc, &new->file)) {
		socket_destroy(new);
		syscall(SYS_close, rc);
		rc = -EMFILE;
	}
	return rc;
}

/* ---- connect() ---- */

/* The outcome of a connect() that has ended, told once. The lane is locked. */
static int connect_outcome(struct socket *s)
{
	int rc;

	if (s->state == SOCKET_CONNECTED) {
		rc = s->answered ? -EISCONN : 0;
		s->answered = true;
		return rc;
	}
	rc = socket_take_error(s);
	return rc ? rc : -ECONNABORTED;
}

static int connect_begin(struct socket *s, struct lane *lane, const struct sockaddr_in *remote)
{
	struct flextoe_conn *conn = NULL;
	int rc;

	options_before_connect(s, lane);
	rc = conn_connect(lane->ctx, s->listener, remote, 0, 0, s, &conn);
	if (rc < 0)
		return rc == -EIO ? -ENETDOWN : rc;
	s->error = 0;
	s->error_told = s->answered = false;
	__atomic_store_n(&s->conn, conn, __ATOMIC_RELEASE);
	socket_offload(s, SOCKET_CONNECTING);
	context_flush(lane->ctx);
	return 0;
}

/* Is it the engine's to connect there? 0, PASS_TO_KERNEL or an error. The lane is locked. */
static int connect_decide(struct socket *s, struct lane *lane, const struct sockaddr *addr, socklen_t len,
	struct sockaddr_in *remote)
{
	enum address_kind kind = address_read(s, addr, len, remote);

	if (kind == ADDRESS_IPV4 && process_serves(remote->sin_addr.s_addr))
		return lane->dead ? -ENETDOWN : remote->sin_port ? 0 : -ECONNREFUSED;
	if (s->state == SOCKET_BOUND && !s->any)
		return len < sizeof(sa_family_t) ? -EINVAL : -ENETUNREACH;
	if (s->listener)
		engine_unbind(s, lane);
	if (len >= sizeof(sa_family_t) && addr->sa_family == AF_UNSPEC)
		return PASS_TO_KERNEL; /* dissolves nothing: still undecided */
	__atomic_store_n(&s->state, SOCKET_KERNEL, __ATOMIC_RELEASE);
	return PASS_TO_KERNEL;
}

int posix_connect(struct socket *s, int fd, const struct sockaddr *addr, socklen_t len)
{
	struct lane *lane = socket_lock(s, fd);
	struct sockaddr_in remote;
	uint64_t deadline;
	int rc;

	if (!lane)
		return -EBADF;
	switch (s->state) {
	case SOCKET_KERNEL:
		rc = PASS_TO_KERNEL;
		goto out;
	case SOCKET_LISTENING:
		rc = -EISCONN;
		goto out;
	case SOCKET_CONNECTED:
		rc = connect_outcome(s);
		goto out;
	case SOCKET_FAILED:
		if (s->error) {
			rc = connect_outcome(s);
			goto out;
		}
		break;
	case SOCKET_CONNECTING:
		lane_drain(lane);
		if (s->state != SOCKET_CONNECTING) {
			rc = connect_outcome(s);
			goto out;
		}
		rc = -EALREADY;
		if (s->nonblock)
			goto out;
		break;
	default:
		break;
	}
	if (s->state != SOCKET_CONNECTING) {
		rc = connect_decide(s, lane, addr, len, &remote);
		if (rc == 0)
			rc = connect_begin(s, lane, &remote);
		if (rc < 0)
			goto out;
		rc = -EINPROGRESS;
		if (s->nonblock)
			goto out;
	}
	deadline = s->snd_timeout_us ? deadline_after_us(s->snd_timeout_us) : DEADLINE_NEVER;
	rc = 0;
	while (rc == 0 && s->state == SOCKET_CONNECTING)
		rc = socket_wait(s, &lane, POLLOUT, deadline);
	if (rc == 0)
		rc = connect_outcome(s);
	else if (rc == -EAGAIN)
		rc = -EINPROGRESS;
out:
	socket_unlock(lane);
	return rc;
}

/* ---- shutdown() and names ---- */

int posix_shutdown(struct socket *s, int fd, int how)
{
	struct lane *lane = socket_lock(s, fd);
	int rc = 0;

	if (!lane)
		return -EBADF;
	if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR) {
		rc = -EINVAL;
	} else if (s->state == SOCKET_LISTENING) {
		/* As Linux: shutdown for reading ends listening. */
		if (how != SHUT_WR) {
			if (s->kernel_bound)
				syscall(SYS_shutdown, fd, how);
			accept_queue_reset(s);
			kept_end(s);
			if (s->listener)
				engine_unbind(s, lane);
			s->kernel_bound = false;
			__atomic_store_n(&s->state, SOCKET_FAILED, __ATOMIC_RELEASE);
		}
	} else if (s->state == SOCKET_CONNECTING) {
		flextoe_conn_abort(s->conn);
		s->conn = NULL;
		s->error = ECONNRESET;
		__atomic_store_n(&s->state, SOCKET_FAILED, __ATOMIC_RELEASE);
	} else if (s->state != SOCKET_CONNECTED || (s->conn->ntf_flags & FLEXTOE_NTF_ERROR)) {
		rc = -ENOTCONN;
	} else {
		if (how != SHUT_WR)
			__atomic_store_n(&s->shut_rd, true, __ATOMIC_RELEASE);
		if (how != SHUT_RD && !s->shut_wr) {
			__atomic_store_n(&s->shut_wr, true, __ATOMIC_RELEASE);
			flextoe_shutdown(s->conn);
			context_flush(lane->ctx);
		}
	}
	if (rc == 0) { /* who waits in it has something to look at */
		epoll_notify(s);
		lane_wake(lane);
	}
	socket_unlock(lane);
	return rc;
}

int posix_getsockname(struct socket *s, struct sockaddr *addr, socklen_t *len)
{
	if (!len || (int)*len < 0)
		return -EINVAL;
	if (!addr)
		return -EFAULT;
	if (!s->local.sin_port)
		listener_visit(s); /* another program's: the engine knows */
	address_write(s, s->local.sin_addr.s_addr, s->local.sin_port, true, addr, len);
	return 0;
}

int posix_getpeername(struct socket *s, struct sockaddr *addr, socklen_t *len)
{
	const struct flextoe_conn *conn = s->conn;

	if (s->state != SOCKET_CONNECTED || !conn)
		return -ENOTCONN;
	if (!len || (int)*len < 0)
		return -EINVAL;
	if (!addr)
		return -EFAULT;
	address_write(s, conn->remote_addr, conn->remote_port, false, addr, len);
	return 0;
}
