/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The names of libc that applications call: each looks whether its descriptor is ours, and forwards to our
 * function or to libc's. Nothing else happens here, but for errno, which is set here alone.
 */
#undef _FILE_OFFSET_BITS /* it would rename fcntl() to fcntl64() and so on: here both are defined */
#undef _TIME_BITS
#include "host/posix.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

/* libc's function of this name, or the next preloaded library's. Found when it is first needed. */
#define REAL(name)                                                                                           \
	({                                                                                                   \
		static __typeof__(&name) real_##name;                                                        \
		__typeof__(&name) found_ = __atomic_load_n(&real_##name, __ATOMIC_RELAXED);                  \
		if (unlikely(!found_)) {                                                                     \
			found_ = (__typeof__(&name))real_find(#name);                                        \
			__atomic_store_n(&real_##name, found_, __ATOMIC_RELAXED);                            \
		}                                                                                            \
		found_;                                                                                      \
	})

static void *real_find(const char *name)
{
	void *found = dlsym(RTLD_NEXT, name);

	if (!found)
		abort(); /* a libc without a function that its own header declares */
	return found;
}

static inline ssize_t result(ssize_t rc)
{
	if (likely(rc >= 0))
		return rc;
	errno = (int)-rc;
	return -1;
}

/* ---- opening and closing ---- */

EXPORT int socket(int domain, int type, int protocol)
{
	int kind = type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC), fd;
	bool candidate = (domain == AF_INET || domain == AF_INET6) && kind == SOCK_STREAM &&
			 (protocol == 0 || protocol == IPPROTO_TCP);
	enum process_state state = PROCESS_KERNEL;

	if (candidate)
		state = process_attach();
	if (state == PROCESS_REFUSED)
		return (int)result(-ENETDOWN);
	fd = REAL(socket)(domain, type, protocol);
	if (fd >= 0 && state == PROCESS_ATTACHED)
		posix_socket(fd, domain, type);
	return fd;
}

/* A file of ours, and this process may touch it (a child of vfork() may not, but for its descriptors). */
static inline bool ours(int fd)
{
	return unlikely(file_of(fd) != NULL);
}

EXPORT int close(int fd)
{
	if (ours(fd) && (!process.pid || process_is_self())) {
		if (fdtable_hidden(fd)) /* daemons close all there may be */
			return (int)result(-EBADF);
		fdtable_close(fd);
	}
	return REAL(close)(fd);
}

/* libuv, and so Node.js, closes by number. Other calls by number are not followed. */
EXPORT __attribute__((no_sanitize("address"))) long syscall(long number, ...)
{
	long arg[6];
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		arg[i] = va_arg(args, long);
	va_end(args);
	if (unlikely(number == SYS_close && ours((int)arg[0])) && (!process.pid || process_is_self()) &&
		!fdtable_hidden((int)arg[0])) /* of ours, this is how they are closed */
		fdtable_close((int)arg[0]);
	return REAL(syscall)(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
	if (!fdtable_used || first >= (unsigned)fdtable_used || (flags & (int)CLOSE_RANGE_CLOEXEC) ||
		first > last || (process.pid && !process_is_self()))
		return REAL(close_range)(first, last, flags);
	fdtable_close_range(first, last);
	for (unsigned fd = first; fd <= last && fd < (unsigned)fdtable_used;
		fd++) { /* around the hidden ones */
		if (!fdtable_hidden((int)fd))
			continue;
		if (fd > first && REAL(close_range)(first, fd - 1, flags) < 0)
			return -1;
		first = fd + 1;
	}
	return first <= last ? REAL(close_range)(first, last, flags) : 0;
}

EXPORT void closefrom(int first)
{
	if (!fdtable_used || first >= fdtable_used || (process.pid && !process_is_self()) ||
		close_range(first < 0 ? 0 : (unsigned)first, ~0u, 0) < 0)
		REAL(closefrom)(first);
}

EXPORT int dup(int fd)
{
	int copy = REAL(dup)(fd);

	if (copy >= 0 && ours(fd))
		fdtable_dup(copy, file_of(fd));
	return copy;
}

/* What `to` named is closed by the kernel's dup2() already. */
static void dup_onto(int fd, int to)
{
	if ((!ours(fd) && !ours(to)) || (process.pid && !process_is_self()))
		return;
	if (fdtable_hidden(to))
		kept_displaced(to);
	if (ours(fd))
		fdtable_dup(to, file_of(fd));
	else
		fdtable_close(to);
}

EXPORT int dup2(int fd, int to)
{
	int rc = REAL(dup2)(fd, to);

	if (rc >= 0 && fd != to)
		dup_onto(fd, to);
	return rc;
}

EXPORT int dup3(int fd, int to, int flags)
{
	int rc = REAL(dup3)(fd, to, flags);

	if (rc >= 0)
		dup_onto(fd, to);
	return rc;
}

EXPORT void _exit(int status)
{
	process_exit();
	syscall(SYS_exit_group, status);
	__builtin_unreachable();
}

EXPORT void _Exit(int status)
{
	_exit(status);
}

/* ---- names ---- */

EXPORT int bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	struct socket *s = socket_of(fd);
	int rc = s ? posix_bind(s, fd, addr, len) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(bind)(fd, addr, len) : (int)result(rc);
}

EXPORT int listen(int fd, int backlog)
{
	struct socket *s = socket_of(fd);
	int rc = s ? posix_listen(s, fd, backlog) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(listen)(fd, backlog) : (int)result(rc);
}

EXPORT int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	struct socket *s = offloaded_of(fd);
	int rc = PASS_TO_KERNEL;

	if (flags & ~(SOCK_NONBLOCK | SOCK_CLOEXEC))
		return (int)result(-EINVAL);
	if (s)
		rc = posix_accept(s, fd, addr, len, flags);
	return rc == PASS_TO_KERNEL ? REAL(accept4)(fd, addr, len, flags) : (int)result(rc);
}

EXPORT int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	struct socket *s = offloaded_of(fd);
	int rc = s ? posix_accept(s, fd, addr, len, 0) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(accept)(fd, addr, len) : (int)result(rc);
}

EXPORT int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	struct socket *s = socket_of(fd);
	int rc = s ? posix_connect(s, fd, addr, len) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(connect)(fd, addr, len) : (int)result(rc);
}

EXPORT int shutdown(int fd, int how)
{
	struct socket *s = offloaded_of(fd);

	return s ? (int)result(posix_shutdown(s, fd, how)) : REAL(shutdown)(fd, how);
}

EXPORT int getsockname(int fd, struct sockaddr *addr, socklen_t *len)
{
	struct socket *s = offloaded_of(fd);

	return s ? (int)result(posix_getsockname(s, addr, len)) : REAL(getsockname)(fd, addr, len);
}

EXPORT int getpeername(int fd, struct sockaddr *addr, socklen_t *len)
{
	struct socket *s = offloaded_of(fd);

	return s ? (int)result(posix_getpeername(s, addr, len)) : REAL(getpeername)(fd, addr, len);
}

/* ---- options ---- */

EXPORT int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
	struct socket *s = offloaded_of(fd);
	int rc = s ? posix_getsockopt(s, fd, level, name, value, len) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(getsockopt)(fd, level, name, value, len) : (int)result(rc);
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	struct socket *s = socket_of(fd);
	int rc = s ? posix_setsockopt(s, fd, level, name, value, len) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(setsockopt)(fd, level, name, value, len) : (int)result(rc);
}

static int epoll_fcntl(int fd, int cmd, long arg)
{
	int copy = (int)syscall(SYS_fcntl, fd, cmd, arg);

	if (copy >= 0)
		fdtable_dup(copy, file_of(fd));
	return copy;
}

EXPORT int fcntl64(int fd, int cmd, ...)
{
	struct socket *s = socket_of(fd);
	int rc = PASS_TO_KERNEL;
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	if (s)
		rc = posix_fcntl(s, fd, cmd, arg);
	else if ((cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC) && ours(fd))
		return epoll_fcntl(fd, cmd, arg);
	return rc == PASS_TO_KERNEL ? REAL(fcntl64)(fd, cmd, arg) : (int)result(rc);
}

EXPORT int fcntl(int fd, int cmd, ...)
{
	va_list args;
	long arg;

	va_start(args, cmd);
	arg = va_arg(args, long);
	va_end(args);
	return fcntl64(fd, cmd, arg);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	struct socket *s = socket_of(fd);
	int rc = PASS_TO_KERNEL;
	va_list args;
	void *arg;

	va_start(args, request);
	arg = va_arg(args, void *);
	va_end(args);
	if (s)
		rc = posix_ioctl(s, fd, request, arg);
	return rc == PASS_TO_KERNEL ? REAL(ioctl)(fd, request, arg) : (int)result(rc);
}

/* ---- receiving ---- */

/* A receive of one piece on a socket of ours, or else `otherwise`. */
#define RECEIVE(fd, buffer, size, flags, otherwise)                                                          \
	struct socket *s_ = offloaded_of(fd);                                                                \
	struct iovec iov_ = {.iov_base = (buffer), .iov_len = (size)};                                       \
	ssize_t rc_ = s_ ? posix_recv(s_, fd, &iov_, 1, flags) : PASS_TO_KERNEL;                             \
	return rc_ == PASS_TO_KERNEL ? (otherwise) : result(rc_)

EXPORT ssize_t read(int fd, void *buffer, size_t size)
{
	RECEIVE(fd, buffer, size, 0, REAL(read)(fd, buffer, size));
}

EXPORT ssize_t recv(int fd, void *buffer, size_t size, int flags)
{
	RECEIVE(fd, buffer, size, flags, REAL(recv)(fd, buffer, size, flags));
}

EXPORT ssize_t recvfrom(int fd, void *buffer, size_t size, int flags, struct sockaddr *addr, socklen_t *len)
{
	if (offloaded_of(fd) && len)
		*len = 0; /* as TCP in Linux: no address is given */
	RECEIVE(fd, buffer, size, flags, REAL(recvfrom)(fd, buffer, size, flags, addr, len));
}

EXPORT ssize_t readv(int fd, const struct iovec *iov, int count)
{
	struct socket *s = offloaded_of(fd);
	ssize_t rc = s ? posix_recv(s, fd, iov, count, 0) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(readv)(fd, iov, count) : result(rc);
}

/* Descriptors that came in a message: listeners of the engine's among them. */
static void rights_look(struct msghdr *msg)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
			int fd;

			memcpy(&fd, (char *)c + at, sizeof(fd));
			kept_adopt(fd, false);
		}
	}
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *msg, int flags)
{
	struct socket *s = offloaded_of(fd);
	ssize_t rc = s ? posix_recvmsg(s, fd, msg, flags) : PASS_TO_KERNEL;

	if (rc != PASS_TO_KERNEL)
		return result(rc);
	rc = REAL(recvmsg)(fd, msg, flags);
	if (rc >= 0 && msg->msg_control && msg->msg_controllen)
		rights_look(msg);
	return rc;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *vec, unsigned count, int flags, struct timespec *timeout)
{
	struct socket *s = offloaded_of(fd);
	int rc = s ? posix_recvmmsg(s, fd, vec, count, flags, timeout) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(recvmmsg)(fd, vec, count, flags, timeout) : (int)result(rc);
}

/* ---- sending ---- */

#define SEND(fd, buffer, size, flags, otherwise)                                                             \
	struct socket *s_ = offloaded_of(fd);                                                                \
	struct iovec iov_ = {.iov_base = (void *)(uintptr_t)(buffer), .iov_len = (size)};                    \
	ssize_t rc_ = s_ ? posix_send(s_, fd, &iov_, 1, flags) : PASS_TO_KERNEL;                             \
	return rc_ == PASS_TO_KERNEL ? (otherwise) : result(rc_)

EXPORT ssize_t write(int fd, const void *buffer, size_t size)
{
	SEND(fd, buffer, size, 0, REAL(write)(fd, buffer, size));
}

EXPORT ssize_t send(int fd, const void *buffer, size_t size, int flags)
{
	SEND(fd, buffer, size, flags, REAL(send)(fd, buffer, size, flags));
}

EXPORT ssize_t sendto(
	int fd, const void *buffer, size_t size, int flags, const struct sockaddr *addr, socklen_t len)
{
	SEND(fd, buffer, size, flags, REAL(sendto)(fd, buffer, size, flags, addr, len));
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
	struct socket *s = offloaded_of(fd);
	ssize_t rc = s ? posix_send(s, fd, iov, count, 0) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(writev)(fd, iov, count) : result(rc);
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *msg, int flags)
{
	struct socket *s = offloaded_of(fd);
	ssize_t rc = s ? posix_sendmsg(s, fd, msg, flags) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(sendmsg)(fd, msg, flags) : result(rc);
}

EXPORT int sendmmsg(int fd, struct mmsghdr *vec, unsigned count, int flags)
{
	struct socket *s = offloaded_of(fd);
	int rc = s ? posix_sendmmsg(s, fd, vec, count, flags) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(sendmmsg)(fd, vec, count, flags) : (int)result(rc);
}

EXPORT ssize_t sendfile64(int out, int in, off_t *offset, size_t count)
{
	struct socket *s = offloaded_of(out);
	ssize_t rc = PASS_TO_KERNEL;

	if (offloaded_of(in)) /* as Linux of any socket: it cannot be mapped */
		return result(-EINVAL);
	if (s)
		rc = posix_sendfile(s, out, in, offset, count);
	return rc == PASS_TO_KERNEL ? REAL(sendfile64)(out, in, offset, count) : result(rc);
}

EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t count)
{
	return sendfile64(out, in, offset, count);
}

EXPORT ssize_t splice(int in, off_t *in_offset, int out, off_t *out_offset, size_t size, unsigned flags)
{
	if (offloaded_of(in) || offloaded_of(out)) {
		unsupported("splice", 0);
		return result(-EINVAL);
	}
	return REAL(splice)(in, in_offset, out, out_offset, size, flags);
}

/* ---- what has no place in a stream ---- */

#define NO_SEEK(fd, otherwise) return offloaded_of(fd) ? result(-ESPIPE) : (otherwise)

EXPORT ssize_t pread64(int fd, void *buffer, size_t size, off_t offset)
{
	NO_SEEK(fd, REAL(pread64)(fd, buffer, size, offset));
}

EXPORT ssize_t pread(int fd, void *buffer, size_t size, off_t offset)
{
	NO_SEEK(fd, REAL(pread)(fd, buffer, size, offset));
}

EXPORT ssize_t pwrite64(int fd, const void *buffer, size_t size, off_t offset)
{
	NO_SEEK(fd, REAL(pwrite64)(fd, buffer, size, offset));
}

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t size, off_t offset)
{
	NO_SEEK(fd, REAL(pwrite)(fd, buffer, size, offset));
}

EXPORT ssize_t preadv(int fd, const struct iovec *iov, int count, off_t offset)
{
	NO_SEEK(fd, REAL(preadv)(fd, iov, count, offset));
}

EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
	NO_SEEK(fd, REAL(pwritev)(fd, iov, count, offset));
}

EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	if (offloaded_of(fd) && offset == -1 && !flags)
		return readv(fd, iov, count);
	NO_SEEK(fd, REAL(preadv2)(fd, iov, count, offset, flags));
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int count, off_t offset, int flags)
{
	if (offloaded_of(fd) && offset == -1 && !flags)
		return writev(fd, iov, count);
	NO_SEEK(fd, REAL(pwritev2)(fd, iov, count, offset, flags));
}

/* off_t has 64 bits: the names that say so are the same functions. */
__typeof__(preadv) preadv64 EXPORT __attribute__((alias("preadv")));
__typeof__(pwritev) pwritev64 EXPORT __attribute__((alias("pwritev")));
__typeof__(preadv2) preadv64v2 EXPORT __attribute__((alias("preadv2")));
__typeof__(pwritev2) pwritev64v2 EXPORT __attribute__((alias("pwritev2")));

/* ---- fortified names ---- */

extern void __chk_fail(void) __attribute__((noreturn));
ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room);
ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags);
ssize_t __recvfrom_chk(
	int fd, void *buffer, size_t size, size_t room, int flags, struct sockaddr *addr, socklen_t *len);
int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room);
int __ppoll_chk(
	struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask, size_t room);

EXPORT ssize_t __read_chk(int fd, void *buffer, size_t size, size_t room)
{
	if (size > room)
		__chk_fail();
	return read(fd, buffer, size);
}

EXPORT ssize_t __recv_chk(int fd, void *buffer, size_t size, size_t room, int flags)
{
	if (size > room)
		__chk_fail();
	return recv(fd, buffer, size, flags);
}

EXPORT ssize_t __recvfrom_chk(
	int fd, void *buffer, size_t size, size_t room, int flags, struct sockaddr *addr, socklen_t *len)
{
	if (size > room)
		__chk_fail();
	return recvfrom(fd, buffer, size, flags, addr, len);
}

/* ---- epoll ---- */

static int epoll_made(int fd)
{
	if (fd >= 0 && atomic_load(&process.state) <= PROCESS_ATTACHED)
		posix_epoll_create(fd);
	return fd;
}

EXPORT int epoll_create(int size)
{
	return epoll_made(REAL(epoll_create)(size));
}

EXPORT int epoll_create1(int flags)
{
	return epoll_made(REAL(epoll_create1)(flags));
}

EXPORT int epoll_ctl(int epfd, int op, int fd, struct epoll_event *event)
{
	struct epoll *ep = epoll_of(epfd);
	int rc = ep ? posix_epoll_ctl(ep, epfd, op, fd, event) : PASS_TO_KERNEL;

	return rc == PASS_TO_KERNEL ? REAL(epoll_ctl)(epfd, op, fd, event) : (int)result(rc);
}

EXPORT int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout_ms)
{
	struct epoll *ep = epoll_of(epfd);

	if (!ep || !process_attached())
		return REAL(epoll_wait)(epfd, events, max, timeout_ms);
	return (int)result(posix_epoll_wait(ep, epfd, events, max, deadline_after_ms(timeout_ms), NULL));
}

EXPORT int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout_ms, const sigset_t *mask)
{
	struct epoll *ep = epoll_of(epfd);

	if (!ep || !process_attached())
		return REAL(epoll_pwait)(epfd, events, max, timeout_ms, mask);
	return (int)result(posix_epoll_wait(ep, epfd, events, max, deadline_after_ms(timeout_ms), mask));
}

static bool timespec_bad(const struct timespec *ts)
{
	return ts && (ts->tv_sec < 0 || ts->tv_nsec < 0 || ts->tv_nsec >= 1000000000);
}

static uint64_t deadline_after(const struct timespec *ts)
{
	if (!ts)
		return DEADLINE_NEVER;
	if (ts->tv_sec == 0 && ts->tv_nsec == 0)
		return 0;
	if (ts->tv_sec > INT32_MAX)
		return DEADLINE_NEVER;
	return deadline_after_us((uint64_t)ts->tv_sec * 1000000 + ((uint64_t)ts->tv_nsec + 999) / 1000);
}

EXPORT int epoll_pwait2(
	int epfd, struct epoll_event *events, int max, const struct timespec *timeout, const sigset_t *mask)
{
	struct epoll *ep = epoll_of(epfd);

	if (!ep || !process_attached())
		return REAL(epoll_pwait2)(epfd, events, max, timeout, mask);
	if (timespec_bad(timeout))
		return (int)result(-EINVAL);
	return (int)result(posix_epoll_wait(ep, epfd, events, max, deadline_after(timeout), mask));
}

/* ---- poll and select ---- */

/* Their headers call the array write-only; the events asked for are read from it all the same. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"

EXPORT int poll(struct pollfd *fds, nfds_t count, int timeout_ms)
{
	if (!poll_is_mixed(fds, count))
		return REAL(poll)(fds, count, timeout_ms);
	return (int)result(posix_poll(fds, count, deadline_after_ms(timeout_ms), NULL));
}

EXPORT int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
	if (!poll_is_mixed(fds, count))
		return REAL(ppoll)(fds, count, timeout, mask);
	if (timespec_bad(timeout))
		return (int)result(-EINVAL);
	return (int)result(posix_poll(fds, count, deadline_after(timeout), mask));
}

EXPORT int __poll_chk(struct pollfd *fds, nfds_t count, int timeout, size_t room)
{
	if (room / sizeof(*fds) < count)
		__chk_fail();
	return poll(fds, count, timeout);
}

EXPORT int __ppoll_chk(
	struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask, size_t room)
{
	if (room / sizeof(*fds) < count)
		__chk_fail();
	return ppoll(fds, count, timeout, mask);
}

EXPORT int select(int count, fd_set *r, fd_set *w, fd_set *e, struct timeval *timeout)
{
	uint64_t deadline = DEADLINE_NEVER, now;
	int rc;

	if (!select_is_mixed(count, r, w, e))
		return REAL(select)(count, r, w, e, timeout);
	if (timeout) {
		if (timeout->tv_sec < 0 || timeout->tv_usec < 0)
			return (int)result(-EINVAL);
		deadline = timeout->tv_sec > INT32_MAX ? DEADLINE_NEVER
			   : timeout->tv_sec || timeout->tv_usec
				   ? deadline_after_us(
					     (uint64_t)timeout->tv_sec * 1000000 + (uint64_t)timeout->tv_usec)
				   : 0;
	}
	rc = posix_select(count, r, w, e, deadline, NULL);
	if (timeout && deadline != DEADLINE_NEVER) { /* as Linux: what is left */
		now = clock_us();
		now = deadline > now ? deadline - now : 0;
		*timeout = (struct timeval){
			.tv_sec = (time_t)(now / 1000000), .tv_usec = (suseconds_t)(now % 1000000)};
	}
	return (int)result(rc);
}

EXPORT int pselect(
	int count, fd_set *r, fd_set *w, fd_set *e, const struct timespec *timeout, const sigset_t *mask)
{
	if (!select_is_mixed(count, r, w, e))
		return REAL(pselect)(count, r, w, e, timeout, mask);
	if (timespec_bad(timeout))
		return (int)result(-EINVAL);
	return (int)result(posix_select(count, r, w, e, deadline_after(timeout), mask));
}

/* ---- the start of a program ---- */

__attribute__((constructor)) static void preload_begin(void)
{
	kept_scan();
}
