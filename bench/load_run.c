// SPDX-License-Identifier: BSD-3-Clause
/*
 * ft-load: the closed loops. Each connection keeps a fixed number of requests under way; a reply is checked
 * byte by byte against what it must be, its latency counted from just before the request was written.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load.h"
#include "core/platform.h"

#define EVENTS	  256
#define RECV_ROOM (64 * 1024)
#define STALL_S	  10.0 /* without a single reply in this time the run has failed */

struct pending {
	const struct exchange *exchange;
	uint64_t start_cycles;
};

struct client {
	int fd;
	uint32_t head, tail; /* pending[head..tail), running counts modulo the ring */
	uint32_t reply_got;  /* bytes of the oldest reply that have come */
	uint32_t out_len, out_sent;
	bool waits_for_room;
	char *out;
	struct pending *pending;
};

struct loop {
	const struct load_options *options;
	struct workload *work;
	int epfd;
	uint32_t mask;
	struct client *clients;
	char *buf;
	uint64_t operations;
	struct histogram *latency; /* NULL while warming up */
};

static int fail(const char *what, int err)
{
	fprintf(stderr, "ft-load: %s: %s\n", what, strerror(err));
	return -err;
}

static int client_watch(struct loop *loop, struct client *c, int op, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = c};

	return epoll_ctl(loop->epfd, op, c->fd, &ev) == 0 ? 0 : -errno;
}

static int client_flush(struct loop *loop, struct client *c)
{
	ssize_t n;

	if (c->out_sent == c->out_len)
		return 0;
	n = send(c->fd, c->out + c->out_sent, c->out_len - c->out_sent, MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN)
		return fail("send", errno);
	c->out_sent += n > 0 ? (uint32_t)n : 0;
	if (c->out_sent == c->out_len)
		c->out_sent = c->out_len = 0;
	if (c->waits_for_room != (c->out_len > 0)) {
		c->waits_for_room = c->out_len > 0;
		return client_watch(loop, c, EPOLL_CTL_MOD, c->waits_for_room ? EPOLLIN | EPOLLOUT : EPOLLIN);
	}
	return 0;
}

/* Fills the pipeline up again and writes. */
static int client_request(struct loop *loop, struct client *c)
{
	uint64_t now;

	if (c->waits_for_room)
		return 0;
	now = cycles_now();
	while (c->tail - c->head < loop->options->pipeline) {
		const struct exchange *x = workload_next(loop->work);

		memcpy(c->out + c->out_len, x->request, x->request_len);
		c->out_len += x->request_len;
		c->pending[c->tail++ & loop->mask] = (struct pending){x, now};
	}
	return client_flush(loop, c);
}

static int client_replies(struct loop *loop, struct client *c, const char *data, uint32_t len)
{
	uint64_t now = cycles_now();

	while (len > 0) {
		struct pending *p = &c->pending[c->head & loop->mask];
		uint32_t n;

		if (c->head == c->tail)
			return fail("bytes came that nobody asked for", EBADMSG);
		n = p->exchange->reply_len - c->reply_got;
		if (n > len)
			n = len;
		if (memcmp(data, p->exchange->reply + c->reply_got, n) != 0)
			return fail("a reply is not what it must be", EBADMSG);
		data += n;
		len -= n;
		c->reply_got += n;
		if (c->reply_got == p->exchange->reply_len) {
			c->reply_got = 0;
			c->head++;
			loop->operations++;
			if (loop->latency)
				histogram_add(loop->latency, now - p->start_cycles);
		}
	}
	return 0;
}

static int client_receive(struct loop *loop, struct client *c)
{
	ssize_t n = recv(c->fd, loop->buf, RECV_ROOM, 0);
	int err;

	if (n == 0)
		return fail("the server closed a connection", ECONNRESET);
	if (n < 0)
		return errno == EAGAIN ? 0 : fail("recv", errno);
	err = client_replies(loop, c, loop->buf, (uint32_t)n);
	return err ? err : client_request(loop, c);
}

/* Until `end_s`; what counts is counted in the loop. */
static int loop_run(struct loop *loop, double end_s)
{
	struct epoll_event events[EVENTS];
	double last_reply_s = load_now_s();
	uint64_t last_operations = loop->operations;
	int i, n, err;

	for (;;) {
		double now_s = load_now_s();

		if (now_s >= end_s)
			return 0;
		if (loop->operations != last_operations) {
			last_operations = loop->operations;
			last_reply_s = now_s;
		} else if (now_s - last_reply_s > STALL_S) {
			return fail("no reply", ETIMEDOUT);
		}
		n = epoll_wait(loop->epfd, events, EVENTS, 100);
		if (n < 0 && errno != EINTR)
			return fail("epoll_wait", errno);
		for (i = 0; i < n; i++) {
			struct client *c = events[i].data.ptr;

			if (events[i].events & EPOLLOUT) {
				err = client_flush(loop, c);
				if (err == 0 && !c->waits_for_room)
					err = client_request(loop, c);
				if (err)
					return err;
			}
			if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
				err = client_receive(loop, c);
				if (err)
					return err;
			}
		}
	}
}

static int loop_open(struct loop *loop, const struct load_options *options, struct workload *w)
{
	uint32_t ring = 1;

	while (ring < options->pipeline)
		ring *= 2;
	*loop = (struct loop){.options = options, .work = w, .mask = ring - 1};
	loop->epfd = epoll_create1(EPOLL_CLOEXEC);
	loop->clients = calloc(options->connections, sizeof(*loop->clients));
	loop->buf = malloc(RECV_ROOM);
	if (loop->epfd < 0 || !loop->clients || !loop->buf)
		return fail("no memory", ENOMEM);
	for (unsigned i = 0; i < options->connections; i++) {
		struct client *c = &loop->clients[i];
		int err;

		c->fd = load_connect(options, true);
		if (c->fd < 0)
			return fail("connect", -c->fd);
		c->out = malloc((size_t)options->pipeline * w->request_max);
		c->pending = calloc(ring, sizeof(*c->pending));
		if (!c->out || !c->pending)
			return fail("no memory", ENOMEM);
		err = client_watch(loop, c, EPOLL_CTL_ADD, EPOLLIN);
		if (err)
			return fail("epoll_ctl", -err);
	}
	return 0;
}

static void loop_close(struct loop *loop)
{
	unsigned i;

	for (i = 0; loop->clients && i < loop->options->connections; i++) {
		if (loop->clients[i].fd > 0)
			close(loop->clients[i].fd);
		free(loop->clients[i].out);
		free(loop->clients[i].pending);
	}
	if (loop->epfd >= 0)
		close(loop->epfd);
	free(loop->clients);
	free(loop->buf);
}

int load_run_exchanges(const struct load_options *options, struct workload *w, struct load_result *result)
{
	struct loop loop;
	double start_s, cpu_s;
	int err = loop_open(&loop, options, w);

	for (unsigned i = 0; !err && i < options->connections; i++)
		err = client_request(&loop, &loop.clients[i]);
	if (!err)
		err = loop_run(&loop, load_now_s() + options->warmup_s);
	if (!err) {
		load_begin();
		loop.operations = 0;
		loop.latency = result->latency;
		cpu_s = load_cpu_s();
		start_s = load_now_s();
		err = loop_run(&loop, start_s + options->seconds);
		result->seconds = load_now_s() - start_s;
		result->cpu_seconds = load_cpu_s() - cpu_s;
		result->operations = loop.operations;
	}
	loop_close(&loop);
	return err;
}

int load_run_hold(const struct load_options *options, struct workload *w)
{
	struct loop loop;
	int err = loop_open(&loop, options, w);

	/* one reply on each, so that both ends are fully set up */
	for (unsigned i = 0; !err && i < options->connections; i++) {
		struct client *c = &loop.clients[i];
		const struct exchange *x = workload_next(w);

		c->pending[c->tail++ & loop.mask] = (struct pending){x, cycles_now()};
		if (send(c->fd, x->request, x->request_len, MSG_NOSIGNAL) != (ssize_t)x->request_len)
			err = fail("send", errno);
		while (!err && c->head != c->tail) {
			struct pollfd p = {.fd = c->fd, .events = POLLIN};
			ssize_t n;

			if (poll(&p, 1, 10000) != 1) {
				err = fail("no reply", ETIMEDOUT);
				break;
			}
			n = recv(c->fd, loop.buf, RECV_ROOM, 0);
			err = n > 0 ? client_replies(&loop, c, loop.buf, (uint32_t)n)
				    : fail("recv", n ? errno : ECONNRESET);
		}
	}
	if (!err) {
		load_begin();
		while (read(0, loop.buf, RECV_ROOM) > 0)
			;
	}
	loop_close(&loop);
	return err;
}
