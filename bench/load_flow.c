// SPDX-License-Identifier: BSD-3-Clause
/*
 * ft-load: bulk transfer in one direction, and connections that are opened, used once and closed.
 */
#include <errno.h>
#include <linux/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load.h"
#include "core/platform.h"

#define BULK_ROOM (256 * 1024)
#define EVENTS	  64
#define STALL_S	  10.0

static int fail(const char *what, int err)
{
	fprintf(stderr, "ft-load: %s: %s\n", what, strerror(err));
	return -err;
}

/* ---- bulk ---- */

struct bulk {
	int *fds;
	struct pollfd *polls;
	unsigned count;
	char *buf;
	bool sends;
};

/* Bytes that have left for good: what the peer has acknowledged, or what we have read. */
static uint64_t bulk_done(const struct bulk *b, uint64_t received)
{
	uint64_t sum = 0;
	unsigned i;

	if (!b->sends)
		return received;
	for (i = 0; i < b->count; i++) {
		struct tcp_info info = {0};
		socklen_t len = sizeof(info);

		if (getsockopt(b->fds[i], IPPROTO_TCP, TCP_INFO, &info, &len) == 0)
			sum += info.tcpi_bytes_acked;
	}
	return sum;
}

static int bulk_until(struct bulk *b, double end_s, uint64_t *received)
{
	unsigned i;

	for (i = 0; i < b->count; i++)
		b->polls[i] = (struct pollfd){.fd = b->fds[i], .events = b->sends ? POLLOUT : POLLIN};
	while (load_now_s() < end_s) {
		int n = poll(b->polls, b->count, (int)(STALL_S * 1000));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return fail("the transfer stands still", ETIMEDOUT);
		for (i = 0; i < b->count; i++) {
			ssize_t m;

			if (!b->polls[i].revents)
				continue;
			m = b->sends ? send(b->fds[i], b->buf, BULK_ROOM, MSG_NOSIGNAL)
				     : recv(b->fds[i], b->buf, BULK_ROOM, 0);
			if (m == 0)
				return fail("the server closed a connection", ECONNRESET);
			if (m < 0 && errno != EAGAIN)
				return fail(b->sends ? "send" : "recv", errno);
			if (m > 0)
				*received += (uint64_t)m;
		}
	}
	return 0;
}

static int bulk_run(const struct load_options *options, struct load_result *result, bool sends)
{
	struct bulk b = {.count = options->connections, .sends = sends};
	uint64_t received = 0, start;
	double start_s, cpu_s;
	unsigned i, opened = 0;
	int err = 0;

	b.fds = calloc(b.count, sizeof(*b.fds));
	b.polls = calloc(b.count, sizeof(*b.polls));
	b.buf = calloc(1, BULK_ROOM);
	if (!b.fds || !b.polls || !b.buf)
		err = fail("no memory", ENOMEM);
	for (i = 0; !err && i < b.count; i++) {
		b.fds[i] = load_connect(options, true);
		if (b.fds[i] < 0)
			err = fail("connect", -b.fds[i]);
		else
			opened++;
	}
	if (!err)
		err = bulk_until(&b, load_now_s() + options->warmup_s, &received);
	if (!err) {
		load_begin();
		start = bulk_done(&b, received);
		cpu_s = load_cpu_s();
		start_s = load_now_s();
		err = bulk_until(&b, start_s + options->seconds, &received);
		result->seconds = load_now_s() - start_s;
		result->cpu_seconds = load_cpu_s() - cpu_s;
		result->bytes = bulk_done(&b, received) - start;
	}
	for (i = 0; i < opened; i++)
		close(b.fds[i]);
	free(b.fds);
	free(b.polls);
	free(b.buf);
	return err;
}

int load_run_send(const struct load_options *options, struct load_result *result)
{
	return bulk_run(options, result, true);
}

int load_run_receive(const struct load_options *options, struct load_result *result)
{
	return bulk_run(options, result, false);
}

/* ---- connections a second ---- */

struct visit {
	int fd;
	uint32_t got;
	bool sent;
	const struct exchange *exchange;
	uint64_t start_cycles;
};

static int visit_start(struct visit *v, int epfd, const struct load_options *options, struct workload *w)
{
	struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = v};

	*v = (struct visit){.exchange = workload_next(w), .start_cycles = cycles_now()};
	v->fd = load_connect(options, false);
	if (v->fd < 0)
		return fail("connect", -v->fd);
	return epoll_ctl(epfd, EPOLL_CTL_ADD, v->fd, &ev) == 0 ? 0 : fail("epoll_ctl", errno);
}

/* 1: over, 0: goes on, or an error. */
static int visit_step(struct visit *v, int epfd)
{
	char buf[2048];
	ssize_t n;

	if (!v->sent) {
		struct epoll_event ev = {.events = EPOLLIN, .data.ptr = v};

		n = send(v->fd, v->exchange->request, v->exchange->request_len, MSG_NOSIGNAL);
		if (n != (ssize_t)v->exchange->request_len)
			return fail("connect or send", n < 0 ? errno : EIO);
		v->sent = true;
		return epoll_ctl(epfd, EPOLL_CTL_MOD, v->fd, &ev) == 0 ? 0 : fail("epoll_ctl", errno);
	}
	n = recv(v->fd, buf, sizeof(buf), 0);
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n <= 0)
		return fail("recv", n ? errno : ECONNRESET);
	if ((uint32_t)n > v->exchange->reply_len - v->got ||
		memcmp(buf, v->exchange->reply + v->got, (size_t)n) != 0)
		return fail("a reply is not what it must be", EBADMSG);
	v->got += (uint32_t)n;
	return v->got == v->exchange->reply_len;
}

int load_run_connrate(const struct load_options *options, struct workload *w, struct load_result *result)
{
	struct visit *visits = calloc(options->connections, sizeof(*visits));
	struct epoll_event events[EVENTS];
	int epfd = epoll_create1(EPOLL_CLOEXEC), err = 0;
	double start_s = load_now_s(), begin_s = 0, cpu_s = 0, last_s = start_s, now_s;
	bool measuring = false;
	unsigned i;

	if (!visits || epfd < 0)
		err = fail("no memory", ENOMEM);
	for (i = 0; !err && i < options->connections; i++)
		err = visit_start(&visits[i], epfd, options, w);
	while (!err) {
		int n;

		now_s = load_now_s();
		if (!measuring && now_s - start_s >= options->warmup_s) {
			load_begin();
			measuring = true;
			cpu_s = load_cpu_s();
			begin_s = load_now_s();
		}
		if (measuring && now_s - begin_s >= options->seconds)
			break;
		if (now_s - last_s > STALL_S) {
			err = fail("no connection succeeds", ETIMEDOUT);
			break;
		}
		n = epoll_wait(epfd, events, EVENTS, 100);
		for (int k = 0; k < n && !err; k++) {
			struct visit *v = events[k].data.ptr;
			int over = visit_step(v, epfd);

			if (over < 0) {
				err = over;
			} else if (over) {
				if (measuring) {
					histogram_add(result->latency, cycles_now() - v->start_cycles);
					result->operations++;
				}
				last_s = now_s;
				close(v->fd);
				err = visit_start(v, epfd, options, w);
			}
		}
	}
	result->seconds = load_now_s() - begin_s;
	result->cpu_seconds = load_cpu_s() - cpu_s;
	free(visits);
	close(epfd);
	return err;
}
