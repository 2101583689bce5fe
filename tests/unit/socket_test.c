/* SPDX-License-Identifier: BSD-3-Clause */
/* Sockets as applications see them, over a fake engine: what Linux promises, call by call. */
#include "posix_fixture.h"

#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

static void timeout_set(int fd, int name, int ms)
{
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	assert_int_equal(setsockopt(fd, SOL_SOCKET, name, &tv, sizeof(tv)), 0);
}

static int option(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);

	assert_int_equal(getsockopt(fd, level, name, &value, &len), 0);
	return value;
}

static void names_and_types(void **state)
{
	struct sockaddr_in a, b;
	socklen_t len = sizeof(a);
	int fd[2];

	(void)state;
	pair_open(fd);
	assert_int_equal(getsockname(fd[0], SA(a), &len), 0);
	assert_int_equal(getpeername(fd[1], SA(b), &len), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_int_equal(option(fd[0], SOL_SOCKET, SO_TYPE), SOCK_STREAM);
	assert_int_equal(option(fd[0], SOL_SOCKET, SO_DOMAIN), AF_INET);
	assert_int_equal(option(fd[1], SOL_SOCKET, SO_ERROR), 0);
	assert_int_equal(option(fd[1], SOL_SOCKET, SO_ACCEPTCONN), 0);
	assert_int_equal(option(fd[1], IPPROTO_TCP, TCP_NODELAY), 0);
	assert_fails(setsockopt(fd[0], SOL_SOCKET, 9999, &len, sizeof(len)), ENOPROTOOPT);
	len = 3; /* cut to what there is room for */
	assert_int_equal(getsockname(fd[0], SA(a), &len), 0);
	assert_int_equal(len, sizeof(a));
	pair_close(fd);
}

static void bytes_and_message_flags(void **state)
{
	char text[16] = {0};
	int fd[2], waiting = -1;

	(void)state;
	pair_open(fd);
	assert_int_equal(write(fd[0], "hello", 5), 5);
	assert_int_equal(recv(fd[1], text, 2, MSG_PEEK), 2);
	assert_int_equal(recv(fd[1], text, 16, MSG_PEEK), 5);
	assert_int_equal(ioctl(fd[1], FIONREAD, &waiting), 0);
	assert_int_equal(waiting, 5);
	assert_int_equal(read(fd[1], text, 3), 3);
	assert_memory_equal(text, "hel", 3);
	assert_int_equal(recv(fd[1], text, 16, 0), 2);
	assert_memory_equal(text, "lo", 2);
	assert_fails(recv(fd[1], text, 16, MSG_DONTWAIT), EAGAIN);
	assert_fails(send(fd[1], "x", 1, MSG_OOB), EOPNOTSUPP);
	assert_int_equal(recv(fd[1], text, 0, 0), 0);
	assert_fails(lseek(fd[1], 0, SEEK_CUR), ESPIPE);
	assert_fails(pread(fd[1], text, 1, 0), ESPIPE);
	pair_close(fd);
}

static void vectors(void **state)
{
	char a[3], b[4];
	char text[] = "abcdefg";
	struct iovec out[3] = {{text, 2}, {text, 0}, {text + 2, 5}}, in[2] = {{a, 3}, {b, 4}};
	struct msghdr msg = {.msg_iov = in, .msg_iovlen = 2, .msg_namelen = 77};
	int fd[2];

	(void)state;
	pair_open(fd);
	assert_int_equal(writev(fd[0], out, 3), 7);
	assert_int_equal(recvmsg(fd[1], &msg, MSG_WAITALL), 7);
	assert_memory_equal(a, "abc", 3);
	assert_memory_equal(b, "defg", 4);
	assert_int_equal(msg.msg_namelen, 0);
	pair_close(fd);
}

static void option_set(int fd, int level, int name, int value)
{
	assert_int_equal(setsockopt(fd, level, name, &value, sizeof(value)), 0);
}

/* The fake engine is a thread of its own: what was posted is there a moment later. */
#define eventually(condition)                                                                                \
	for (int tries_ = 0; !(condition); tries_++) {                                                       \
		assert_true(tries_ < 1000);                                                                  \
		usleep(1000);                                                                                \
	}

static void options_reach_the_engine(void **state)
{
	struct sockaddr_in at = address(FAKE_ADDRESS, 0);
	struct flextoe_hc_options told;
	socklen_t len = sizeof(at);
	int fd[2], listener = socket(AF_INET, SOCK_STREAM, 0);

	(void)state;
	option_set(listener, SOL_SOCKET, SO_KEEPALIVE, 1);
	option_set(listener, IPPROTO_TCP, TCP_KEEPIDLE, 11);
	option_set(listener, IPPROTO_TCP, TCP_MAXSEG, 1000);
	assert_int_equal(bind(listener, SA(at), sizeof(at)), 0);
	assert_int_equal(listen(listener, 4), 0);
	told = fake_engine_options(engine); /* before LISTEN, which is answered */
	assert_int_equal(told.applies_to, FLEXTOE_OPTIONS_ENDPOINT);
	assert_int_equal(told.keep_idle_s, 11);
	assert_int_equal(told.keep_interval_s, 75);
	assert_int_equal(told.keep_count, 9);
	assert_int_equal(told.maxseg, 1000);
	option_set(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 7);
	eventually(fake_engine_options(engine).defer_accept_s == 7);
	assert_int_equal(getsockname(listener, SA(at), &len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	option_set(fd[0], IPPROTO_IP, IP_TOS, 0x10);
	option_set(fd[0], IPPROTO_TCP, TCP_USER_TIMEOUT, 1234);
	option_set(fd[0], IPPROTO_TCP, TCP_SYNCNT, 3);
	assert_int_equal(connect(fd[0], SA(at), sizeof(at)), 0);
	told = fake_engine_options(engine);
	assert_int_equal(told.applies_to, FLEXTOE_OPTIONS_CONNECT);
	assert_int_equal(told.tos, 0x10);
	assert_int_equal(told.user_timeout_ms, 1234);
	assert_int_equal(told.syn_retries, 3);
	assert_int_equal(told.keep_idle_s, 0);
	fd[1] = accept(listener, NULL, NULL);
	assert_int_equal(option(fd[1], IPPROTO_TCP, TCP_KEEPIDLE), 11);
	option_set(fd[1], SOL_SOCKET, SO_KEEPALIVE, 0);
	eventually(fake_engine_options(engine).applies_to == FLEXTOE_OPTIONS_CONN);
	told = fake_engine_options(engine);
	assert_int_equal(told.keep_idle_s, 0);
	assert_int_equal(told.target, offloaded_of(fd[1])->conn->handle);
	option_set(fd[1], IPPROTO_TCP, TCP_LINGER2, 3600);
	eventually(fake_engine_options(engine).linger2_s == 120);
	close(listener);
	pair_close(fd);
}

static void congestion_control_by_name(void **state)
{
	char name[16] = {0};
	socklen_t len = sizeof(name);
	int fd[2];

	(void)state;
	pair_open(fd);
	assert_int_equal(getsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, name, &len), 0);
	assert_string_equal(name, "cubic");
	assert_int_equal(setsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, "dctcp", 5), 0);
	eventually(fake_engine_options(engine).congestion == FLEXTOE_CONGESTION_DCTCP);
	len = sizeof(name);
	assert_int_equal(getsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, name, &len), 0);
	assert_string_equal(name, "dctcp");
	assert_int_equal(setsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, "reno", sizeof("reno")), 0);
	assert_fails(setsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, "bbr", 3), ENOENT);
	assert_fails(setsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, "ren", 3), ENOENT);
	assert_fails(setsockopt(fd[0], IPPROTO_TCP, TCP_CONGESTION, "renoo", 5), ENOENT);
	pair_close(fd);
}

static void corked_bytes_say_that_more_follows(void **state)
{
	unsigned more = fake_engine_more(engine);
	char text[16];
	int fd[2];

	(void)state;
	pair_open(fd);
	assert_int_equal(send(fd[0], "a", 1, 0), 1);
	assert_int_equal(send(fd[0], "b", 1, MSG_MORE), 1);
	assert_int_equal(recv(fd[1], text, 2, MSG_WAITALL), 2);
	assert_int_equal(fake_engine_more(engine), more + 1);
	assert_true(offloaded_of(fd[0])->conn->flags & HOSTC_MORE);
	assert_int_equal(send(fd[0], "c", 1, 0), 1);
	assert_false(offloaded_of(fd[0])->conn->flags & HOSTC_MORE);
	option_set(fd[0], IPPROTO_TCP, TCP_CORK, 1);
	assert_int_equal(write(fd[0], "d", 1), 1);
	assert_true(offloaded_of(fd[0])->conn->flags & HOSTC_MORE);
	option_set(fd[0], IPPROTO_TCP, TCP_CORK, 0);
	assert_false(offloaded_of(fd[0])->conn->flags & HOSTC_MORE);
	assert_int_equal(recv(fd[1], text, 2, MSG_WAITALL), 2);
	assert_int_equal(fake_engine_more(engine), more + 2);
	pair_close(fd);
}

static uint64_t close_takes_ms(int fd)
{
	uint64_t start = clock_us();

	assert_int_equal(close(fd), 0);
	return (clock_us() - start) / 1000;
}

static void *unstall(void *arg)
{
	(void)arg;
	usleep(200000);
	fake_engine_stall(engine, false);
	return NULL;
}

static void close_lingers_until_all_is_acknowledged(void **state)
{
	struct linger linger = {.l_onoff = 1, .l_linger = 5};
	pthread_t thread;
	char text[8];
	uint64_t ms;
	int fd[2];

	(void)state;
	for (int nonblock = 0; nonblock < 2; nonblock++) {
		pair_open(fd);
		linger.l_linger = 5;
		assert_int_equal(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
		if (nonblock)
			assert_int_equal(fcntl(fd[0], F_SETFL, O_NONBLOCK), 0);
		fake_engine_stall(engine, true);
		assert_int_equal(write(fd[0], "bye", 3), 3);
		pthread_create(&thread, NULL, unstall, NULL);
		ms = close_takes_ms(fd[0]);
		assert_in_range(ms, 100, 3000);
		pthread_join(thread, NULL);
		assert_int_equal(read(fd[1], text, 8), 3);
		close(fd[1]);
	}
	/* the time is over */
	pair_open(fd);
	linger.l_linger = 1;
	assert_int_equal(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
	fake_engine_stall(engine, true);
	assert_int_equal(write(fd[0], "bye", 3), 3);
	ms = close_takes_ms(fd[0]);
	assert_in_range(ms, 900, 3000);
	fake_engine_stall(engine, false);
	close(fd[1]);
}

static void *send_slowly(void *arg)
{
	int fd = *(int *)arg;

	for (int i = 0; i < 5; i++) {
		usleep(3000);
		if (write(fd, "ab", 2) != 2)
			return NULL;
	}
	return NULL;
}

static void waitall_waits_for_all(void **state)
{
	pthread_t thread;
	char text[10];
	int fd[2];

	(void)state;
	pair_open(fd);
	pthread_create(&thread, NULL, send_slowly, &fd[0]);
	assert_int_equal(recv(fd[1], text, 10, MSG_WAITALL | MSG_PEEK), 10);
	assert_int_equal(recv(fd[1], text, 10, MSG_WAITALL), 10);
	pthread_join(thread, NULL);
	shutdown(fd[0], SHUT_WR);
	assert_int_equal(recv(fd[1], text, 10, MSG_WAITALL), 0);
	pair_close(fd);
}

static void timeouts(void **state)
{
	static char big[1 << 18];
	char c;
	int fd[2];

	(void)state;
	pair_open(fd);
	timeout_set(fd[0], SO_RCVTIMEO, 5);
	assert_fails(read(fd[0], &c, 1), EAGAIN);
	timeout_set(fd[0], SO_SNDTIMEO, 5);
	assert_in_range(write(fd[0], big, sizeof(big)), 1, sizeof(big) - 1); /* what fitted */
	assert_fails(write(fd[0], big, sizeof(big)), EAGAIN);
	pair_close(fd);
}

static void end_of_stream_and_half_close(void **state)
{
	char c;
	int fd[2];

	(void)state;
	pair_open(fd);
	assert_int_equal(write(fd[0], "x", 1), 1);
	assert_int_equal(shutdown(fd[0], SHUT_WR), 0);
	assert_fails(send(fd[0], "y", 1, MSG_NOSIGNAL), EPIPE);
	assert_int_equal(read(fd[1], &c, 1), 1);
	assert_int_equal(read(fd[1], &c, 1), 0);
	assert_int_equal(read(fd[1], &c, 1), 0);
	assert_int_equal(write(fd[1], "z", 1), 1); /* the other half is open */
	assert_int_equal(read(fd[0], &c, 1), 1);
	assert_int_equal(shutdown(fd[0], SHUT_RD), 0);
	assert_int_equal(read(fd[0], &c, 1), 0);
	assert_fails(shutdown(fd[0], 7), EINVAL);
	pair_close(fd);
}

static volatile sig_atomic_t signals;
static void on_signal(int number)
{
	signals += number == SIGPIPE ? 100 : 1;
}

static void broken_pipe_is_a_signal(void **state)
{
	int fd[2];

	(void)state;
	signals = 0;
	signal(SIGPIPE, on_signal);
	pair_open(fd);
	shutdown(fd[0], SHUT_WR);
	assert_fails(write(fd[0], "y", 1), EPIPE);
	assert_int_equal(signals, 100);
	pair_close(fd);
	signal(SIGPIPE, SIG_DFL);
}

static void a_reset_is_told_once(void **state)
{
	struct linger abort_it = {.l_onoff = 1};
	char c;
	int fd[2];

	(void)state;
	pair_open(fd);
	assert_int_equal(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it)), 0);
	assert_int_equal(close(fd[0]), 0);
	assert_fails(read(fd[1], &c, 1), ECONNRESET);
	assert_int_equal(read(fd[1], &c, 1), 0);
	assert_fails(send(fd[1], "x", 1, MSG_NOSIGNAL), EPIPE);
	assert_int_equal(option(fd[1], SOL_SOCKET, SO_ERROR), 0);
	assert_fails(shutdown(fd[1], SHUT_RDWR), ENOTCONN);
	close(fd[1]);
	pair_open(fd);
	assert_int_equal(setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &abort_it, sizeof(abort_it)), 0);
	close(fd[0]);
	usleep(5000);
	assert_int_equal(option(fd[1], SOL_SOCKET, SO_ERROR), ECONNRESET);
	assert_int_equal(option(fd[1], SOL_SOCKET, SO_ERROR), 0);
	close(fd[1]);
}

static void refused_and_in_progress(void **state)
{
	struct sockaddr_in nobody = address(FAKE_ADDRESS, htons(9)),
			   silent = address(FAKE_PEERS_DEAD, htons(9));
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	(void)state;
	assert_fails(connect(fd, SA(nobody), sizeof(nobody)), ECONNREFUSED);
	assert_int_equal(option(fd, SOL_SOCKET, SO_ERROR), 0);
	assert_fails(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_fails(connect(fd, SA(silent), sizeof(silent)), EINPROGRESS);
	assert_fails(connect(fd, SA(silent), sizeof(silent)), EALREADY);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_fails(connect(fd, SA(nobody), sizeof(nobody)), EINPROGRESS);
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};
	assert_int_equal(poll(&pfd, 1, 1000), 1);
	assert_true(pfd.revents & POLLERR);
	assert_int_equal(option(fd, SOL_SOCKET, SO_ERROR), ECONNREFUSED);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 0);
	timeout_set(fd, SO_SNDTIMEO, 5);
	assert_fails(connect(fd, SA(silent), sizeof(silent)), EINPROGRESS);
	close(fd);
}

static void connected_twice(void **state)
{
	struct sockaddr_in to;
	uint16_t port;
	int listener = listener_open(&port, 0), fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};

	(void)state;
	to = address(FAKE_ADDRESS, port);
	assert_fails(connect(fd, SA(to), sizeof(to)), EINPROGRESS);
	assert_int_equal(poll(&pfd, 1, 1000), 1);
	assert_int_equal(pfd.revents, POLLOUT);
	assert_int_equal(connect(fd, SA(to), sizeof(to)), 0);
	assert_fails(connect(fd, SA(to), sizeof(to)), EISCONN);
	assert_fails(listen(fd, 1), EINVAL);
	assert_fails(accept(fd, NULL, NULL), EINVAL);
	close(fd);
	close(listener);
}

static void nonblocking_accept_and_ports(void **state)
{
	struct sockaddr_in at;
	uint16_t port;
	int listener = listener_open(&port, SOCK_NONBLOCK), other = socket(AF_INET, SOCK_STREAM, 0), fd;
	struct pollfd pfd = {.fd = listener, .events = POLLIN};

	(void)state;
	assert_int_equal(option(listener, SOL_SOCKET, SO_ACCEPTCONN), 1);
	assert_fails(accept(listener, NULL, NULL), EAGAIN);
	at = address(FAKE_ADDRESS, port);
	assert_fails(bind(other, SA(at), sizeof(at)), EADDRINUSE);
	close(other);
	other = client_open(port);
	assert_int_equal(poll(&pfd, 1, 1000), 1);
	fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	close(fd);
	close(other);
	close(listener);
	assert_fails(accept(listener, NULL, NULL), EBADF);
}

static void copies_of_a_descriptor(void **state)
{
	char c;
	int fd[2], copy, third;

	(void)state;
	pair_open(fd);
	copy = dup(fd[0]);
	third = fcntl(fd[0], F_DUPFD_CLOEXEC, 100);
	assert_true(third >= 100);
	close(fd[0]);
	assert_int_equal(write(copy, "a", 1), 1);
	close(copy);
	assert_int_equal(write(third, "b", 1), 1);
	assert_int_equal(read(fd[1], &c, 1), 1);
	assert_int_equal(dup2(fd[1], third), third); /* closes the last copy of the other end */
	assert_int_equal(read(third, &c, 1), 1);
	assert_int_equal(read(third, &c, 1), 0);
	close(third);
	close(fd[1]);
}

static void any_address_is_both(void **state)
{
	struct sockaddr_in at = address(INADDR_ANY, 0), from;
	socklen_t len = sizeof(at);
	int listener = socket(AF_INET, SOCK_STREAM, 0), a, b, c, d;

	(void)state;
	assert_int_equal(bind(listener, SA(at), sizeof(at)), 0);
	assert_int_equal(listen(listener, 4), 0);
	assert_int_equal(getsockname(listener, SA(at), &len), 0);
	assert_int_equal(at.sin_addr.s_addr, INADDR_ANY);
	at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	a = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(a, SA(at), sizeof(at)), 0);
	b = accept(listener, SA(from), &len);
	assert_true(b >= 0);
	assert_int_equal(from.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
	assert_null(offloaded_of(b));
	c = client_open(at.sin_port);
	d = accept(listener, SA(from), &len);
	assert_non_null(offloaded_of(d));
	assert_int_equal(from.sin_addr.s_addr, FAKE_ADDRESS);
	close(a);
	close(b);
	close(c);
	close(d);
	close(listener);
}

static void ipv6_sockets_see_mapped_addresses(void **state)
{
	struct sockaddr_in6 at = {.sin6_family = AF_INET6}, from;
	socklen_t len = sizeof(at);
	int listener = socket(AF_INET6, SOCK_STREAM, 0), a, b;

	(void)state;
	if (listener < 0)
		skip(); /* a machine without IPv6 */
	assert_int_equal(bind(listener, SA(at), sizeof(at)), 0);
	assert_int_equal(listen(listener, 4), 0);
	assert_int_equal(getsockname(listener, SA(at), &len), 0);
	a = client_open(at.sin6_port);
	len = sizeof(from);
	b = accept(listener, SA(from), &len);
	assert_int_equal(len, sizeof(from));
	assert_int_equal(from.sin6_family, AF_INET6);
	assert_true(IN6_IS_ADDR_V4MAPPED(&from.sin6_addr));
	assert_int_equal(option(b, SOL_SOCKET, SO_DOMAIN), AF_INET6);
	close(a);
	close(b);
	close(listener);
}

static void kernel_addresses_stay_the_kernels(void **state)
{
	struct sockaddr_in at = address(htonl(INADDR_LOOPBACK), 0);
	int fd = socket(AF_INET, SOCK_STREAM, 0), v6only = socket(AF_INET6, SOCK_STREAM, 0), one = 1;
	struct sockaddr_in6 any = {.sin6_family = AF_INET6};

	(void)state;
	assert_int_equal(bind(fd, SA(at), sizeof(at)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_null(offloaded_of(fd));
	close(fd);
	if (v6only >= 0) {
		assert_int_equal(setsockopt(v6only, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)), 0);
		assert_int_equal(bind(v6only, SA(any), sizeof(any)), 0);
		assert_int_equal(listen(v6only, 1), 0);
		assert_null(offloaded_of(v6only));
		close(v6only);
	}
}

static void *read_one(void *arg)
{
	char c;
	ssize_t n = read(*(int *)arg, &c, 1);

	return (void *)(n < 0 ? -(intptr_t)errno : (intptr_t)n);
}

static void closed_while_another_thread_reads(void **state)
{
	pthread_t thread;
	void *result;
	int fd[2];

	(void)state;
	pair_open(fd);
	pthread_create(&thread, NULL, read_one, &fd[0]);
	usleep(10000);
	close(fd[0]);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, -EBADF);
	close(fd[1]);
	pair_open(fd);
	pthread_create(&thread, NULL, read_one, &fd[0]);
	usleep(10000);
	shutdown(fd[0], SHUT_RD);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, 0);
	pair_close(fd);
}

static void signals_interrupt(void **state)
{
	struct sigaction action = {.sa_handler = on_signal};
	struct itimerval timer = {.it_value.tv_usec = 5000};
	char c;
	int fd[2];

	(void)state;
	pair_open(fd);
	signals = 0;
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	assert_fails(read(fd[0], &c, 1), EINTR);
	assert_int_equal(signals, 1);
	signal(SIGALRM, SIG_DFL);
	pair_close(fd);
}

#define STREAM_BYTES (3u << 20)

static uint8_t pattern(size_t at)
{
	return (uint8_t)(at * 2654435761u >> 13);
}

static void *stream_write(void *arg)
{
	int fd = *(int *)arg;
	uint8_t block[7919];
	size_t done = 0;

	while (done < STREAM_BYTES) {
		size_t n = STREAM_BYTES - done < sizeof(block) ? STREAM_BYTES - done : sizeof(block);

		for (size_t i = 0; i < n; i++)
			block[i] = pattern(done + i);
		if (write(fd, block, n) != (ssize_t)n)
			return (void *)1;
		done += n;
	}
	shutdown(fd, SHUT_WR);
	return NULL;
}

static void *stream_read(void *arg)
{
	int fd = *(int *)arg;
	uint8_t block[10007];
	size_t done = 0;
	ssize_t n;

	while ((n = read(fd, block, sizeof(block))) > 0)
		for (ssize_t i = 0; i < n; i++)
			if (block[i] != pattern(done++))
				return (void *)2;
	return n == 0 && done == STREAM_BYTES ? NULL : (void *)3;
}

static void streams_from_many_threads(void **state)
{
	enum { PAIRS = 3 };
	pthread_t thread[4 * PAIRS];
	int fd[PAIRS][2];

	(void)state;
	for (int i = 0; i < PAIRS; i++)
		pair_open(fd[i]);
	for (int i = 0; i < PAIRS; i++) { /* both directions at once; a reader and a writer on each socket */
		pthread_create(&thread[4 * i], NULL, stream_write, &fd[i][0]);
		pthread_create(&thread[4 * i + 1], NULL, stream_read, &fd[i][1]);
		pthread_create(&thread[4 * i + 2], NULL, stream_write, &fd[i][1]);
		pthread_create(&thread[4 * i + 3], NULL, stream_read, &fd[i][0]);
	}
	for (int i = 0; i < 4 * PAIRS; i++) {
		void *result;

		pthread_join(thread[i], &result);
		assert_null(result);
	}
	for (int i = 0; i < PAIRS; i++)
		pair_close(fd[i]);
}

static void files_are_sent(void **state)
{
	char path[] = "/tmp/flextoe-test-XXXXXX", text[8] = {0};
	int file = mkstemp(path), fd[2];
	off_t offset = 2;

	(void)state;
	assert_int_equal(write(file, "abcdefg", 7), 7);
	lseek(file, 0, SEEK_SET);
	pair_open(fd);
	assert_int_equal(sendfile(fd[0], file, &offset, 100), 5);
	assert_int_equal(offset, 7);
	assert_int_equal(sendfile(fd[0], file, NULL, 2), 2);
	assert_int_equal(recv(fd[1], text, 7, MSG_WAITALL), 7);
	assert_string_equal(text, "cdefgab");
	pair_close(fd);
	close(file);
	unlink(path);
}

static void closing_is_complete(void **state)
{
	(void)state;
	for (int i = 0; i < 2000; i++) { /* more than there are connections: each must come back */
		char c = (char)i, d = 0;
		int fd[2];

		pair_open(fd);
		assert_int_equal(write(fd[0], &c, 1), 1);
		assert_int_equal(close(fd[0]), 0);
		assert_int_equal(read(fd[1], &d, 1), 1);
		assert_int_equal(c, d);
		assert_int_equal(read(fd[1], &d, 1), 0);
		close(fd[1]);
	}
}

/* The parent accepts and closes, the child serves, as forking servers do. */
static void a_child_serves_what_the_parent_accepted(void **state)
{
	(void)state;
	for (int round = 0; round < 20; round++) {
		char text[8] = {0};
		int fd[2], status;
		pid_t child;

		pair_open(fd);
		child = fork();
		if (child == 0) {
			alarm(10);
			close(fd[0]);
			if (recv(fd[1], text, 4, MSG_WAITALL) != 4 || send(fd[1], text, 4, 0) != 4)
				_exit(1);
			if (round & 1) /* otherwise by ending */
				close(fd[1]);
			_exit(read(fd[0], text, 1) == -1 ? 0 : 2);
		}
		close(fd[1]);
		assert_int_equal(write(fd[0], "ping", 4), 4);
		assert_int_equal(recv(fd[0], text, 4, MSG_WAITALL), 4);
		assert_memory_equal(text, "ping", 4);
		assert_int_equal(read(fd[0], text, 1), 0); /* the child had the last descriptor */
		close(fd[0]);
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_int_equal(status, 0);
	}
}

static void a_child_that_dies_or_executes_keeps_nothing_open(void **state)
{
	(void)state;
	for (int round = 0; round < 4; round++) {
		int fd[2], status;
		pid_t child;
		char c;

		pair_open(fd);
		child = fork();
		if (child == 0) {
			if (round & 1)
				execl("/bin/sleep", "sleep", "1", NULL);
			raise(SIGKILL);
		}
		close(fd[1]);
		assert_int_equal(read(fd[0], &c, 1), 0);
		close(fd[0]);
		assert_int_equal(waitpid(child, &status, 0), child);
	}
}

static void a_child_that_does_not_use_it_harms_nothing(void **state)
{
	int fd[2], status;
	pid_t child;
	char c;

	(void)state;
	pair_open(fd);
	child = fork();
	if (child == 0)
		_exit(0);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(write(fd[0], "x", 1), 1);
	assert_int_equal(read(fd[1], &c, 1), 1);
	usleep(50000);
	close(fd[0]);
	assert_int_equal(read(fd[1], &c, 1), 0);
	close(fd[1]);
}

/* The next child waits here, before the library's own fork handler has run in it. */
static int gate_fd = -1;

static void gate_child(void)
{
	char c;

	if (gate_fd >= 0 && syscall(SYS_read, gate_fd, &c, 1) < 0)
		_exit(3);
}

static pid_t idle_child(void)
{
	pid_t child = fork();

	if (child == 0)
		for (;;)
			pause();
	return child;
}

static void child_kill(pid_t child)
{
	int status;

	assert_int_equal(kill(child, SIGKILL), 0);
	assert_int_equal(waitpid(child, &status, 0), child);
}

/* What the parent does between fork() and the child's first step is not the child's. */
static void a_child_that_starts_late_is_not_taken_for_dead(void **state)
{
	int fd[2], gate[2], ready[2], status;
	pid_t first, second, late;
	char c = 0;

	(void)state;
	pair_open(fd);
	assert_int_equal(pipe(gate), 0);
	assert_int_equal(pipe(ready), 0);
	first = idle_child();
	second = idle_child();
	child_kill(first);
	child_kill(second);
	gate_fd = gate[0];
	late = fork(); /* in the place of the first, with a descriptor that watched the second */
	if (late == 0) {
		alarm(10);
		close(fd[0]);
		if (write(ready[1], "r", 1) != 1 || recv(fd[1], &c, 1, 0) != 1 || send(fd[1], &c, 1, 0) != 1)
			_exit(1);
		_exit(0);
	}
	gate_fd = -1;
	second = idle_child();
	assert_int_equal(write(gate[1], "g", 1), 1);
	close(fd[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	child_kill(second);
	child_kill(idle_child()); /* the parent looks for children that have ended */
	assert_int_equal(write(fd[0], "x", 1), 1);
	assert_int_equal(read(fd[0], &c, 1), 1);
	assert_int_equal(c, 'x');
	assert_int_equal(read(fd[0], &c, 1), 0);
	assert_int_equal(waitpid(late, &status, 0), late);
	assert_int_equal(status, 0);
	close(fd[0]);
	for (int i = 0; i < 2; i++) {
		close(gate[i]);
		close(ready[i]);
	}
}

static void the_engine_dies(void **state)
{
	struct sockaddr_in to = address(FAKE_ADDRESS, htons(80));
	pthread_t thread;
	void *result;
	char c;
	int fd[2], other;

	(void)state;
	pair_open(fd);
	pthread_create(&thread, NULL, read_one, &fd[0]);
	usleep(10000);
	fake_engine_kill(engine);
	pthread_join(thread, &result);
	assert_int_equal((intptr_t)result, -ECONNRESET);
	assert_fails(read(fd[1], &c, 1), ECONNRESET);
	assert_fails(send(fd[1], "x", 1, MSG_NOSIGNAL), EPIPE);
	other = socket(AF_INET, SOCK_STREAM, 0);
	assert_fails(connect(other, SA(to), sizeof(to)), ENETDOWN);
	close(other);
	pair_close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_and_types),
		cmocka_unit_test(bytes_and_message_flags),
		cmocka_unit_test(vectors),
		cmocka_unit_test(options_reach_the_engine),
		cmocka_unit_test(congestion_control_by_name),
		cmocka_unit_test(corked_bytes_say_that_more_follows),
		cmocka_unit_test(close_lingers_until_all_is_acknowledged),
		cmocka_unit_test(waitall_waits_for_all),
		cmocka_unit_test(timeouts),
		cmocka_unit_test(end_of_stream_and_half_close),
		cmocka_unit_test(broken_pipe_is_a_signal),
		cmocka_unit_test(a_reset_is_told_once),
		cmocka_unit_test(refused_and_in_progress),
		cmocka_unit_test(connected_twice),
		cmocka_unit_test(nonblocking_accept_and_ports),
		cmocka_unit_test(copies_of_a_descriptor),
		cmocka_unit_test(any_address_is_both),
		cmocka_unit_test(ipv6_sockets_see_mapped_addresses),
		cmocka_unit_test(kernel_addresses_stay_the_kernels),
		cmocka_unit_test(closed_while_another_thread_reads),
		cmocka_unit_test(signals_interrupt),
		cmocka_unit_test(streams_from_many_threads),
		cmocka_unit_test(files_are_sent),
		cmocka_unit_test(closing_is_complete),
		cmocka_unit_test(a_child_serves_what_the_parent_accepted),
		cmocka_unit_test(a_child_that_dies_or_executes_keeps_nothing_open),
		cmocka_unit_test(a_child_that_does_not_use_it_harms_nothing),
		cmocka_unit_test(a_child_that_starts_late_is_not_taken_for_dead),
		cmocka_unit_test(the_engine_dies),
	};

	pthread_atfork(
		NULL, NULL, gate_child); /* before the library's, which is there from the first socket on */
	return cmocka_run_group_tests(tests, engine_setup, engine_teardown);
}
