/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bytes in and out of a connected socket: every variant of recv and send ends here. Copies between the
 * application's memory and the connection's buffers under the home lane's lock; waits without it. Errors and
 * ends of stream come in Linux's order: bytes that are there first, then the error once, then the end.
 */
#include "host/posix.h"

#include <errno.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RECV_FLAGS                                                                                           \
	(MSG_DONTWAIT | MSG_PEEK | MSG_WAITALL | MSG_NOSIGNAL | MSG_TRUNC | MSG_CMSG_CLOEXEC |               \
		MSG_ERRQUEUE | MSG_OOB)
#define SEND_FLAGS                                                                                           \
	(MSG_DONTWAIT | MSG_NOSIGNAL | MSG_MORE | MSG_EOR | MSG_CONFIRM | MSG_DONTROUTE | MSG_OOB |          \
		MSG_ZEROCOPY)
#define TELL_SHIFT     3 /* tell the engine of space once an eighth of the buffer is free again */
#define SENDFILE_CHUNK 65536u

static ssize_t iov_bytes(const struct iovec *iov, int count)
{
	size_t sum = 0;

	if (count < 0 || count > IOV_MAX)
		return -EINVAL;
	for (int i = 0; i < count; i++) {
		if (iov[i].iov_len > SSIZE_MAX - sum)
			return -EINVAL;
		sum += iov[i].iov_len;
	}
	return (ssize_t)sum;
}

/* Copies between the caller's vector from byte `skip` on and up to two pieces of a window; returns how much.
 */
static size_t window_copy(const struct iovec *iov, int count, size_t skip, const struct iovec window[2],
	size_t bytes, bool to_window)
{
	size_t done = 0, at = 0;
	int piece = 0;

	for (int i = 0; i < count && done < bytes; i++) {
		size_t offset = skip < iov[i].iov_len ? skip : iov[i].iov_len;

		skip -= offset;
		while (offset < iov[i].iov_len && done < bytes) {
			char *user = (char *)iov[i].iov_base + offset, *ours;
			size_t n = iov[i].iov_len - offset;

			if (at == window[piece].iov_len) {
				piece = 1;
				at = 0;
			}
			ours = (char *)window[piece].iov_base + at;
			if (n > window[piece].iov_len - at)
				n = window[piece].iov_len - at;
			if (n > bytes - done)
				n = bytes - done;
			if (to_window)
				memcpy(ours, user, n);
			else
				memcpy(user, ours, n);
			offset += n;
			at += n;
			done += n;
		}
	}
	return done;
}

/* Can this socket carry bytes at all? The lane is locked. */
static int transfer_check(struct socket *s)
{
	if (likely(s->state == SOCKET_CONNECTED))
		return 0;
	if (s->state == SOCKET_KERNEL || s->state == SOCKET_UNDECIDED)
		return PASS_TO_KERNEL;
	return 0;
}

/* ---- receiving ---- */

/* Gives consumed bytes back; the engine is told when it is worth a descriptor. */
static void recv_done(struct socket *s, size_t bytes)
{
	struct flextoe_conn *conn = s->conn;
	uint32_t tail = conn->rx_tail + (uint32_t)bytes;

	__atomic_store_n(&conn->rx_tail, tail, __ATOMIC_RELAXED);
	if (tail - conn->rx_told >= 1u << (conn->rx_shift - TELL_SHIFT)) {
		conn_dirty(conn);
		context_flush(conn->ctx);
	}
}

/* What recv() says when there are no bytes: 0 for the end of stream, -EAGAIN to wait, or the error. */
static ssize_t recv_nothing(struct socket *s)
{
	int rc;

	if (s->state == SOCKET_CONNECTING)
		return -EAGAIN;
	if (s->state == SOCKET_FAILED) {
		rc = socket_take_error(s);
		return rc;
	}
	if (s->state != SOCKET_CONNECTED)
		return -ENOTCONN;
	if ((s->conn->ntf_flags & FLEXTOE_NTF_FIN) || s->shut_rd)
		return 0;
	rc = socket_take_error(s);
	if (rc)
		return rc;
	return s->conn->ntf_flags & FLEXTOE_NTF_ERROR ? 0 : -EAGAIN;
}

ssize_t posix_recv(struct socket *s, int fd, const struct iovec *iov, int count, int flags)
{
	ssize_t wanted = iov_bytes(iov, count), rc;
	uint64_t deadline = DEADLINE_NEVER;
	bool peek_waited = false;
	size_t done = 0;
	struct lane *lane;

	if (unlikely(flags & ~RECV_FLAGS))
		unsupported("recv flags", flags & ~RECV_FLAGS);
	if (wanted < 0)
		return wanted;
	lane = socket_lock(s, fd);
	if (!lane)
		return -EBADF;
	rc = transfer_check(s);
	if (rc)
		goto out;
	if (unlikely(flags & (MSG_OOB | MSG_ERRQUEUE))) {
		rc = flags & MSG_OOB ? -EINVAL
				     : -EAGAIN; /* there never is urgent data, nor an error message */
		goto out;
	}
	if (s->rcv_timeout_us)
		deadline = deadline_after_us(s->rcv_timeout_us);
	for (;;) {
		struct iovec window[2];
		ssize_t bytes = 0;

		if (likely(s->state == SOCKET_CONNECTED)) {
			if (!conn_rx_bytes(s->conn) || (size_t)wanted - done > conn_rx_bytes(s->conn))
				if (lane_pending(lane) || lane->ctx->dead != lane->dead)
					lane_drain(lane);
			bytes = conn_rx_bytes(s->conn) ? flextoe_rx_window(s->conn, window) : 0;
		}
		if (bytes > 0) {
			if ((size_t)bytes > (size_t)wanted - done)
				bytes = wanted - (ssize_t)done;
			if (!(flags & MSG_TRUNC))
				window_copy(iov, count, done, window, (size_t)bytes, false);
			if (flags & MSG_PEEK) {
				/* With MSG_WAITALL too: once it is all there, or no more can come. */
				if ((flags & MSG_WAITALL) && bytes < wanted && !s->nonblock &&
					!(flags & MSG_DONTWAIT) && !peek_waited) {
					uint32_t size = 1u << s->conn->rx_shift;

					peek_waited = true;
					s->rx_wanted = (size_t)wanted < size ? (uint32_t)wanted : size;
					rc = socket_wait(
						s, &lane, SOCKET_RX_WANTED | POLLRDHUP | POLLHUP, deadline);
					if (lane)
						continue;
					goto out;
				}
				rc = bytes;
				goto out;
			}
			recv_done(s, (size_t)bytes);
			done += (size_t)bytes;
			if (done == (size_t)wanted || !(flags & MSG_WAITALL))
				break;
			continue;
		}
		if (done == (size_t)wanted)
			break; /* also a read of no bytes */
		if (done && s->state == SOCKET_CONNECTED &&
			(s->shut_rd || (s->conn->ntf_flags & (FLEXTOE_NTF_FIN | FLEXTOE_NTF_ERROR))))
			break;
		rc = recv_nothing(s);
		if (rc != -EAGAIN)
			goto out;
		if (s->nonblock || (flags & MSG_DONTWAIT)) {
			lane_drain(lane); /* posts what is owed, and sees whether the engine lives */
			if (socket_events(s) & POLLIN)
				continue;
			break;
		}
		rc = socket_wait(s, &lane, POLLIN | POLLHUP, deadline);
		if (rc < 0)
			break;
	}
	if (done)
		rc = (ssize_t)done;
	else if (wanted == 0)
		rc = 0;
out:
	socket_unlock(lane);
	return rc;
}

ssize_t posix_recvmsg(struct socket *s, int fd, struct msghdr *msg, int flags)
{
	ssize_t rc = posix_recv(
		s, fd, msg->msg_iov, (int)(msg->msg_iovlen > IOV_MAX ? IOV_MAX + 1 : msg->msg_iovlen), flags);

	if (rc >= 0) {
		msg->msg_namelen = 0; /* as TCP in Linux: no address, no control data */
		msg->msg_controllen = 0;
		msg->msg_flags = 0;
	}
	return rc;
}

int posix_recvmmsg(
	struct socket *s, int fd, struct mmsghdr *vec, unsigned count, int flags, struct timespec *timeout)
{
	unsigned n = 0;

	(void)timeout; /* Linux looks at it only after a message has come; then all here is without waiting */
	for (; n < count; n++) {
		ssize_t rc = posix_recvmsg(s, fd, &vec[n].msg_hdr,
			(flags & ~MSG_WAITFORONE) | (n && (flags & MSG_WAITFORONE) ? MSG_DONTWAIT : 0));

		if (rc < 0)
			return n ? (int)n : (int)rc;
		vec[n].msg_len = (unsigned)rc;
		if (rc == 0)
			return (int)n + 1;
	}
	return (int)n;
}

/* ---- sending ---- */

/* A broken pipe, with the signal unless the caller does not want it. */
static ssize_t send_broken(int flags)
{
	if (!(flags & MSG_NOSIGNAL))
		raise(SIGPIPE);
	return -EPIPE;
}

/* What send() says when no bytes go: -EAGAIN to wait, or the error. */
static ssize_t send_nothing(struct socket *s)
{
	int rc;

	if (s->state == SOCKET_CONNECTING)
		return -EAGAIN;
	rc = socket_take_error(s);
	if (rc)
		return rc;
	if (s->state != SOCKET_CONNECTED || s->shut_wr || (s->conn->ntf_flags & FLEXTOE_NTF_ERROR))
		return -EPIPE;
	return -EAGAIN;
}

ssize_t posix_send(struct socket *s, int fd, const struct iovec *iov, int count, int flags)
{
	ssize_t wanted = iov_bytes(iov, count), rc;
	uint64_t deadline = DEADLINE_NEVER;
	size_t done = 0;
	struct lane *lane;

	if (unlikely(flags & (~SEND_FLAGS | MSG_OOB | MSG_ZEROCOPY))) {
		unsupported("send flags", flags & (~SEND_FLAGS | MSG_OOB | MSG_ZEROCOPY));
		if (flags & MSG_OOB)
			return -EOPNOTSUPP;
	}
	if (wanted < 0)
		return wanted;
	lane = socket_lock(s, fd);
	if (!lane)
		return -EBADF;
	rc = transfer_check(s);
	if (rc)
		goto out;
	if (s->snd_timeout_us)
		deadline = deadline_after_us(s->snd_timeout_us);
	for (;;) {
		struct iovec window[2];
		ssize_t space = -EAGAIN;

		if (likely(s->state == SOCKET_CONNECTED && !s->shut_wr)) {
			space = flextoe_tx_window(s->conn, window);
			if (space < wanted - (ssize_t)done && lane_pending(lane)) {
				lane_drain(lane);
				space = flextoe_tx_window(s->conn, window);
			}
		}
		if (space > 0) {
			size_t n = (size_t)wanted - done;

			if (n > (size_t)space)
				n = (size_t)space;
			if (n) {
				window_copy(iov, count, done, window, n, true);
				flextoe_tx_commit(s->conn, n);
				if (unlikely((flags & MSG_MORE) || s->cork || (s->conn->flags & HOSTC_MORE)))
					conn_more(s->conn, (flags & MSG_MORE) || s->cork);
				/* Always told when it is writable again: nobody needs to ask for it. */
				if (!conn_writable(s->conn))
					s->conn->flags |= HOSTC_TX_WANTED;
				context_flush(lane->ctx);
				done += n;
			}
			if (done == (size_t)wanted)
				break;
			continue;
		}
		rc = send_nothing(s);
		if (rc != -EAGAIN)
			break;
		if (s->nonblock || (flags & MSG_DONTWAIT)) {
			lane_drain(lane);
			if (s->state == SOCKET_CONNECTED &&
				(conn_tx_free(s->conn) || (s->conn->ntf_flags & FLEXTOE_NTF_ERROR)))
				continue;
			break;
		}
		rc = socket_wait(s, &lane, POLLOUT | POLLHUP, deadline);
		if (rc < 0)
			break;
	}
	if (done || (wanted == 0 && rc != -EPIPE && rc != -ENOTCONN))
		rc = (ssize_t)done;
out:
	socket_unlock(lane);
	return rc == -EPIPE ? send_broken(flags) : rc;
}

ssize_t posix_sendmsg(struct socket *s, int fd, const struct msghdr *msg, int flags)
{
	if (msg->msg_controllen && msg->msg_control)
		unsupported("sendmsg control data", 0);
	return posix_send(
		s, fd, msg->msg_iov, (int)(msg->msg_iovlen > IOV_MAX ? IOV_MAX + 1 : msg->msg_iovlen), flags);
}

int posix_sendmmsg(struct socket *s, int fd, struct mmsghdr *vec, unsigned count, int flags)
{
	unsigned n = 0;

	for (; n < count; n++) {
		ssize_t rc = posix_sendmsg(s, fd, &vec[n].msg_hdr, flags);

		if (rc < 0)
			return n ? (int)n : (int)rc;
		vec[n].msg_len = (unsigned)rc;
	}
	return (int)n;
}

ssize_t posix_sendfile(struct socket *s, int fd, int in, off_t *offset, size_t count)
{
	char chunk[SENDFILE_CHUNK];
	off_t at = offset ? *offset : 0;
	size_t done = 0;
	ssize_t rc = 0;

	while (done < count) {
		size_t n = count - done < sizeof(chunk) ? count - done : sizeof(chunk);
		ssize_t got = offset ? syscall(SYS_pread64, in, chunk, n, at + (off_t)done)
				     : syscall(SYS_read, in, chunk, n);
		struct iovec iov = {.iov_base = chunk, .iov_len = (size_t)got};

		if (got <= 0) {
			rc = got < 0 ? -errno : 0;
			break;
		}
		rc = posix_send(s, fd, &iov, 1, 0);
		if (rc > 0)
			done += (size_t)rc;
		if (rc < got) {
			/* Bytes read but not sent go back to a file that can be wound back. */
			if (!offset)
				syscall(SYS_lseek, in, (rc > 0 ? rc : 0) - got, SEEK_CUR);
			break;
		}
	}
	if (offset)
		*offset = at + (off_t)done;
	return done ? (ssize_t)done : rc < 0 ? rc : 0;
}
