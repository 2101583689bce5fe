/* SPDX-License-Identifier: BSD-3-Clause */
/* epoll, poll and select over sockets of ours and files of the kernel's, with a fake engine. */
#include "posix_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/timerfd.h>

static void watch(int epfd, int op, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};

	assert_int_equal(epoll_ctl(epfd, op, fd, &event), 0);
}

/* The one event that comes within a while, or 0. */
static uint32_t one_event(int epfd, int fd, int timeout_ms)
{
	struct epoll_event event[4];
	int n = epoll_wait(epfd, event, 4, timeout_ms);

	assert_true(n >= 0);
	if (n == 0)
		return 0;
	assert_int_equal(n, 1);
	assert_int_equal(event[0].data.fd, fd);
	return event[0].events;
}

static void level_triggered(void **state)
{
	int epfd = epoll_create1(EPOLL_CLOEXEC), fd[2];
	char c;

	(void)state;
	pair_open(fd);
	watch(epfd, EPOLL_CTL_ADD, fd[1], EPOLLIN);
	assert_int_equal(one_event(epfd, fd[1], 0), 0);
	assert_int_equal(one_event(epfd, fd[1], 5), 0);
	assert_int_equal(write(fd[0], "ab", 2), 2);
	assert_int_equal(one_event(epfd, fd[1], 1000), EPOLLIN);
	assert_int_equal(read(fd[1], &c, 1), 1);
	assert_int_equal(one_event(epfd, fd[1], 0), EPOLLIN);
	assert_int_equal(read(fd[1], &c, 1), 1);
	assert_int_equal(one_event(epfd, fd[1], 0), 0);
	watch(epfd, EPOLL_CTL_MOD, fd[1], EPOLLIN | EPOLLOUT);
	assert_int_equal(one_event(epfd, fd[1], 0), EPOLLOUT);
	shutdown(fd[0], SHUT_WR);
	watch(epfd, EPOLL_CTL_MOD, fd[1], EPOLLIN | EPOLLRDHUP);
	assert_int_equal(one_event(epfd, fd[1], 1000), EPOLLIN | EPOLLRDHUP);
	watch(epfd, EPOLL_CTL_DEL, fd[1], 0);
	assert_int_equal(one_event(epfd, fd[1], 0), 0);
	assert_fails(epoll_ctl(epfd, EPOLL_CTL_DEL, fd[1], NULL), ENOENT);
	pair_close(fd);
	close(epfd);
}

static void edge_triggered(void **state)
{
	int epfd = epoll_create1(0), fd[2];
	char text[8];

	(void)state;
	pair_open(fd);
	watch(epfd, EPOLL_CTL_ADD, fd[1], EPOLLIN | EPOLLET);
	assert_int_equal(write(fd[0], "ab", 2), 2);
	assert_int_equal(one_event(epfd, fd[1], 1000), EPOLLIN);
	assert_int_equal(one_event(epfd, fd[1], 5), 0); /* nothing new */
	assert_int_equal(write(fd[0], "c", 1), 1);
	assert_int_equal(one_event(epfd, fd[1], 1000), EPOLLIN);
	assert_int_equal(read(fd[1], text, 8), 3);
	assert_int_equal(one_event(epfd, fd[1], 0), 0);
	watch(epfd, EPOLL_CTL_MOD, fd[1], EPOLLOUT | EPOLLET); /* MOD of what is ready is an edge */
	assert_int_equal(one_event(epfd, fd[1], 0), EPOLLOUT);
	assert_int_equal(one_event(epfd, fd[1], 0), 0);
	pair_close(fd);
	close(epfd);
}

static void one_shot(void **state)
{
	int epfd = epoll_create1(0), fd[2];

	(void)state;
	pair_open(fd);
	watch(epfd, EPOLL_CTL_ADD, fd[1], EPOLLIN | EPOLLONESHOT);
	assert_int_equal(write(fd[0], "ab", 2), 2);
	assert_int_equal(one_event(epfd, fd[1], 1000), EPOLLIN);
	assert_int_equal(write(fd[0], "ab", 2), 2);
	assert_int_equal(one_event(epfd, fd[1], 5), 0);
	watch(epfd, EPOLL_CTL_MOD, fd[1], EPOLLIN | EPOLLONESHOT);
	assert_int_equal(one_event(epfd, fd[1], 1000), EPOLLIN);
	assert_fails(epoll_ctl(epfd, EPOLL_CTL_ADD, fd[1], &(struct epoll_event){0}), EEXIST);
	pair_close(fd);
	close(epfd);
}

static void output_comes_back(void **state)
{
	static char big[1 << 17];
	int epfd = epoll_create1(0), fd[2];
	ssize_t n, sent = 0;

	(void)state;
	pair_open(fd);
	fcntl(fd[0], F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 100; i++) { /* until both buffers are full */
		n = write(fd[0], big, sizeof(big));
		sent += n > 0 ? n : 0;
		usleep(500);
	}
	assert_int_equal(n, -1);
	assert_int_equal(errno, EAGAIN);
	watch(epfd, EPOLL_CTL_ADD, fd[0], EPOLLOUT | EPOLLET);
	assert_int_equal(one_event(epfd, fd[0], 5), 0);
	while (sent > 0) {
		n = read(fd[1], big, sizeof(big));
		assert_true(n > 0);
		sent -= n;
	}
	assert_int_equal(one_event(epfd, fd[0], 1000), EPOLLOUT);
	pair_close(fd);
	close(epfd);
}

static void kernel_files_mix_freely(void **state)
{
	struct itimerspec soon = {.it_value.tv_nsec = 3000000};
	int epfd = epoll_create1(0), event = eventfd(0, EFD_NONBLOCK),
	    timer = timerfd_create(CLOCK_MONOTONIC, 0);
	int tube[2], fd[2];
	char c;

	(void)state;
	assert_int_equal(pipe(tube), 0);
	pair_open(fd);
	watch(epfd, EPOLL_CTL_ADD, event, EPOLLIN);
	watch(epfd, EPOLL_CTL_ADD, tube[0], EPOLLIN);
	watch(epfd, EPOLL_CTL_ADD, timer, EPOLLIN);
	watch(epfd, EPOLL_CTL_ADD, fd[1], EPOLLIN);
	assert_int_equal(write(tube[1], "x", 1), 1);
	assert_int_equal(one_event(epfd, tube[0], 1000), EPOLLIN);
	assert_int_equal(read(tube[0], &c, 1), 1);
	timerfd_settime(timer, 0, &soon, NULL);
	assert_int_equal(one_event(epfd, timer, 1000), EPOLLIN);
	watch(epfd, EPOLL_CTL_DEL, timer, 0);
	assert_int_equal(write(fd[0], "x", 1), 1);
	assert_int_equal(one_event(epfd, fd[1], 1000), EPOLLIN);
	eventfd_write(event, 1); /* ours is ready all the time: the kernel's must not starve */
	for (int i = 0, seen = 0; !seen; i++) {
		struct epoll_event events[1];

		assert_int_equal(epoll_wait(epfd, events, 1, 1000), 1);
		seen = events[0].data.fd == event;
		assert_true(i < 100);
	}
	pair_close(fd);
	close(tube[0]);
	close(tube[1]);
	close(timer);
	close(event);
	close(epfd);
}

static void a_connecting_socket_may_be_watched_before(void **state)
{
	struct sockaddr_in to;
	uint16_t port;
	int listener = listener_open(&port, SOCK_NONBLOCK), epfd = epoll_create1(0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	(void)state;
	to = address(FAKE_ADDRESS, port);
	watch(epfd, EPOLL_CTL_ADD, fd, EPOLLOUT);
	assert_int_equal(one_event(epfd, fd, 0), EPOLLOUT | EPOLLHUP);
	assert_fails(connect(fd, SA(to), sizeof(to)), EINPROGRESS);
	assert_int_equal(one_event(epfd, fd, 1000), EPOLLOUT);
	close(fd);
	watch(epfd, EPOLL_CTL_ADD, listener, EPOLLIN);
	assert_int_equal(one_event(epfd, listener, 1000), EPOLLIN);
	close(listener);
	assert_int_equal(one_event(epfd, listener, 0), 0);
	close(epfd);
}

struct late {
	int epfd, fd, write_to;
};

static void *add_late(void *arg)
{
	struct late *late = arg;

	usleep(10000);
	watch(late->epfd, EPOLL_CTL_ADD, late->fd, EPOLLIN);
	usleep(5000);
	return write(late->write_to, "x", 1) == 1 ? NULL : late;
}

static void added_while_another_thread_sleeps(void **state)
{
	struct late late = {.epfd = epoll_create1(0)};
	pthread_t thread;
	void *result;
	int fd[2];

	(void)state;
	pair_open(fd);
	late.fd = fd[1];
	late.write_to = fd[0];
	pthread_create(&thread, NULL, add_late, &late);
	assert_int_equal(one_event(late.epfd, fd[1], 2000), EPOLLIN);
	pthread_join(thread, &result);
	assert_null(result);
	pair_close(fd);
	close(late.epfd);
}

/* Workers with an epoll each, fed by the thread that accepts; every worker echoes. */
#define WORKERS 3
#define CLIENTS 12
#define ROUNDS	50

static atomic_int served;

static void *worker(void *arg)
{
	int epfd = *(int *)arg;

	while (atomic_load(&served) < CLIENTS) {
		struct epoll_event events[8];
		int n = epoll_wait(epfd, events, 8, 20);

		for (int i = 0; i < n; i++) {
			char text[64];
			ssize_t got = read(events[i].data.fd, text, sizeof(text));

			if (got > 0 && write(events[i].data.fd, text, (size_t)got) != got)
				return arg;
			if (got <= 0) {
				close(events[i].data.fd);
				atomic_fetch_add(&served, 1);
			}
		}
	}
	return NULL;
}

static void *client(void *arg)
{
	int fd = client_open(*(uint16_t *)arg);

	for (int i = 0; i < ROUNDS; i++) {
		char text[8] = "ping", back[8];

		if (write(fd, text, 8) != 8 || recv(fd, back, 8, MSG_WAITALL) != 8 ||
			memcmp(text, back, 8) != 0)
			return arg;
	}
	close(fd);
	return NULL;
}

static void workers_serve_what_another_thread_accepts(void **state)
{
	pthread_t workers[WORKERS], clients[CLIENTS];
	int epfd[WORKERS];
	void *result;
	uint16_t port;
	int listener = listener_open(&port, 0);

	(void)state;
	for (int i = 0; i < WORKERS; i++) {
		epfd[i] = epoll_create1(0);
		pthread_create(&workers[i], NULL, worker, &epfd[i]);
	}
	for (int i = 0; i < CLIENTS; i++)
		pthread_create(&clients[i], NULL, client, &port);
	for (int i = 0; i < CLIENTS; i++) {
		int fd = accept(listener, NULL, NULL);

		assert_true(fd >= 0);
		watch(epfd[i % WORKERS], EPOLL_CTL_ADD, fd, i & 1 ? EPOLLIN : EPOLLIN | EPOLLET);
	}
	for (int i = 0; i < CLIENTS; i++) {
		pthread_join(clients[i], &result);
		assert_null(result);
	}
	for (int i = 0; i < WORKERS; i++) {
		pthread_join(workers[i], &result);
		assert_null(result);
		close(epfd[i]);
	}
	close(listener);
}

static void polled_sets(void **state)
{
	int tube[2], fd[2];
	struct pollfd fds[3];

	(void)state;
	assert_int_equal(pipe(tube), 0);
	pair_open(fd);
	fds[0] = (struct pollfd){.fd = tube[0], .events = POLLIN};
	fds[1] = (struct pollfd){.fd = fd[1], .events = POLLIN};
	fds[2] = (struct pollfd){.fd = -1, .events = POLLIN, .revents = 7};
	assert_int_equal(poll(fds, 3, 5), 0);
	assert_int_equal(write(fd[0], "x", 1), 1);
	assert_int_equal(poll(fds, 3, 1000), 1);
	assert_int_equal(fds[0].revents, 0);
	assert_int_equal(fds[1].revents, POLLIN);
	assert_int_equal(fds[2].revents, 0);
	assert_int_equal(write(tube[1], "x", 1), 1);
	assert_int_equal(poll(fds, 3, 1000), 2);
	fds[1].events = POLLOUT;
	assert_int_equal(poll(fds, 3, 0), 2);
	fds[2].fd = 19999; /* not open */
	assert_int_equal(poll(fds, 3, 0), 3);
	assert_int_equal(fds[2].revents, POLLNVAL);
	pair_close(fd);
	close(tube[0]);
	close(tube[1]);
}

static void selected_sets(void **state)
{
	struct timeval timeout = {.tv_usec = 3000};
	int tube[2], fd[2], top;
	fd_set r, w;

	(void)state;
	assert_int_equal(pipe(tube), 0);
	pair_open(fd);
	top = (fd[1] > tube[0] ? fd[1] : tube[0]) + 1;
	FD_ZERO(&r);
	FD_SET(fd[1], &r);
	FD_SET(tube[0], &r);
	assert_int_equal(select(top, &r, NULL, NULL, &timeout), 0);
	assert_false(FD_ISSET(fd[1], &r));
	assert_int_equal(timeout.tv_usec, 0);
	FD_SET(fd[1], &r);
	FD_SET(tube[0], &r);
	FD_ZERO(&w);
	FD_SET(fd[1], &w);
	assert_int_equal(write(fd[0], "x", 1), 1);
	timeout.tv_sec = 1;
	while (!FD_ISSET(fd[1], &r) || select(top, &r, &w, NULL, &timeout) < 2) {
		FD_SET(fd[1], &r);
		FD_SET(tube[0], &r);
		FD_SET(fd[1], &w);
	}
	assert_true(FD_ISSET(fd[1], &w));
	assert_false(FD_ISSET(tube[0], &r));
	pair_close(fd);
	close(tube[0]);
	close(tube[1]);
}

static void an_epoll_may_be_polled(void **state)
{
	int epfd = epoll_create1(0), fd[2];
	struct pollfd pfd = {.fd = epfd, .events = POLLIN};
	char c;

	(void)state;
	pair_open(fd);
	watch(epfd, EPOLL_CTL_ADD, fd[1], EPOLLIN);
	assert_int_equal(poll(&pfd, 1, 0), 0);
	assert_int_equal(write(fd[0], "x", 1), 1);
	assert_int_equal(poll(&pfd, 1, 1000), 1);
	assert_int_equal(one_event(epfd, fd[1], 1000), EPOLLIN);
	assert_int_equal(read(fd[1], &c, 1), 1);
	pair_close(fd);
	close(epfd);
}

static void without_our_sockets_it_is_the_kernels(void **state)
{
	int epfd = epoll_create(1), event = eventfd(1, 0);

	(void)state;
	watch(epfd, EPOLL_CTL_ADD, event, EPOLLIN);
	assert_int_equal(one_event(epfd, event, 0), EPOLLIN);
	assert_fails(epoll_wait(epfd, NULL, 0, 0), EINVAL);
	close(event);
	assert_int_equal(one_event(epfd, event, 3), 0);
	close(epfd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(level_triggered),
		cmocka_unit_test(edge_triggered),
		cmocka_unit_test(one_shot),
		cmocka_unit_test(output_comes_back),
		cmocka_unit_test(kernel_files_mix_freely),
		cmocka_unit_test(a_connecting_socket_may_be_watched_before),
		cmocka_unit_test(added_while_another_thread_sleeps),
		cmocka_unit_test(workers_serve_what_another_thread_accepts),
		cmocka_unit_test(polled_sets),
		cmocka_unit_test(selected_sets),
		cmocka_unit_test(an_epoll_may_be_polled),
		cmocka_unit_test(without_our_sockets_it_is_the_kernels),
	};

	return cmocka_run_group_tests(tests, engine_setup, engine_teardown);
}
