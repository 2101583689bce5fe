// SPDX-License-Identifier: BSD-3-Clause
/*
 * ft-echo, the server of the benchmarks: a plain POSIX program with one thread and epoll. It runs unchanged
 * over kernel TCP and under `flextoe run`. Modes: echo sends back what comes, sink reads and forgets, source
 * sends without end. Says "listening" on standard output when it does.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS	  256
#define ECHO_ROOM (64 * 1024)
#define BULK_ROOM (256 * 1024)

enum mode { MODE_ECHO, MODE_SINK, MODE_SOURCE };

struct peer {
	int fd;
	int waits_for_room; /* an echo could not be written whole: the rest is in held */
	size_t held_len, held_sent;
	char *held;
};

static char buffer[BULK_ROOM];
static enum mode mode = MODE_ECHO;
static int epfd;

static void peer_close(struct peer *p)
{
	close(p->fd);
	free(p->held);
	free(p);
}

static int peer_watch(struct peer *p, int op, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = p};

	return epoll_ctl(epfd, op, p->fd, &ev);
}

/* Each returns -1 when the connection has ended. */
static int peer_hold(struct peer *p, const char *data, size_t len)
{
	if (!p->held) {
		p->held = malloc(ECHO_ROOM);
		if (!p->held)
			return -1;
	}
	memcpy(p->held, data, len);
	p->held_len = len;
	p->held_sent = 0;
	p->waits_for_room = 1;
	return peer_watch(p, EPOLL_CTL_MOD, EPOLLOUT);
}

static int peer_echo(struct peer *p)
{
	ssize_t n = recv(p->fd, buffer, ECHO_ROOM, 0), sent;

	if (n <= 0)
		return n < 0 && errno == EAGAIN ? 0 : -1;
	sent = send(p->fd, buffer, (size_t)n, MSG_NOSIGNAL);
	if (sent < 0) {
		if (errno != EAGAIN)
			return -1;
		sent = 0;
	}
	return sent == n ? 0 : peer_hold(p, buffer + sent, (size_t)(n - sent));
}

static int peer_unhold(struct peer *p)
{
	ssize_t n = send(p->fd, p->held + p->held_sent, p->held_len - p->held_sent, MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN ? 0 : -1;
	p->held_sent += (size_t)n;
	if (p->held_sent < p->held_len)
		return 0;
	p->waits_for_room = 0;
	return peer_watch(p, EPOLL_CTL_MOD, EPOLLIN);
}

static int peer_sink(struct peer *p)
{
	ssize_t n = recv(p->fd, buffer, BULK_ROOM, 0);

	return n > 0 || (n < 0 && errno == EAGAIN) ? 0 : -1;
}

static int peer_source(struct peer *p)
{
	ssize_t n = send(p->fd, buffer, BULK_ROOM, MSG_NOSIGNAL);

	return n > 0 || (n < 0 && errno == EAGAIN) ? 0 : -1;
}

static int peer_serve(struct peer *p, uint32_t events)
{
	if (mode == MODE_SOURCE)
		return events & (EPOLLERR | EPOLLHUP) ? -1 : peer_source(p);
	if (mode == MODE_SINK)
		return peer_sink(p);
	return p->waits_for_room ? peer_unhold(p) : peer_echo(p);
}

static void accept_all(int listener)
{
	for (;;) {
		int one = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		struct peer *p;

		if (fd < 0)
			return;
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		p = calloc(1, sizeof(*p));
		if (!p) {
			close(fd);
			return;
		}
		p->fd = fd;
		if (peer_watch(p, EPOLL_CTL_ADD, mode == MODE_SOURCE ? EPOLLOUT : EPOLLIN) != 0)
			peer_close(p);
	}
}

static int listen_at(const char *text)
{
	struct sockaddr_in a = {.sin_family = AF_INET};
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
	char host[64];
	const char *colon = strrchr(text, ':');
	int one = 1, fd;

	if (!colon || (size_t)(colon - text) >= sizeof(host)) {
		errno = EINVAL;
		return -1;
	}
	memcpy(host, text, (size_t)(colon - text));
	host[colon - text] = 0;
	a.sin_port = htons((uint16_t)atoi(colon + 1));
	if (inet_pton(AF_INET, host, &a.sin_addr) != 1) {
		errno = EINVAL;
		return -1;
	}
	fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 4096) ||
		epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev))
		return -1;
	return fd;
}

int main(int argc, char **argv)
{
	static const struct option names[] = {
		{"listen", 1, NULL, 'l'}, {"mode", 1, NULL, 'm'}, {NULL, 0, NULL, 0}};
	static const char *const modes[] = {"echo", "sink", "source"};
	struct epoll_event events[EVENTS];
	const char *where = "0.0.0.0:7";
	struct rlimit files;
	int c, i, n, listener, known = 1;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (c == 'l') {
			where = optarg;
		} else if (c == 'm') {
			known = 0;
			for (i = 0; i < 3; i++) {
				if (strcmp(optarg, modes[i]) == 0) {
					mode = (enum mode)i;
					known = 1;
				}
			}
		} else {
			known = 0;
		}
	}
	if (!known || optind != argc) {
		fprintf(stderr, "usage: ft-echo [--listen ADDRESS:PORT] [--mode echo|sink|source]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	epfd = epoll_create1(EPOLL_CLOEXEC);
	listener = listen_at(where);
	if (epfd < 0 || listener < 0) {
		fprintf(stderr, "ft-echo: cannot listen on %s: %s\n", where, strerror(errno));
		return 1;
	}
	puts("listening");
	fflush(stdout);
	for (;;) {
		n = epoll_wait(epfd, events, EVENTS, -1);
		if (n < 0 && errno != EINTR) {
			fprintf(stderr, "ft-echo: epoll_wait: %s\n", strerror(errno));
			return 1;
		}
		for (i = 0; i < n; i++) {
			struct peer *p = events[i].data.ptr;

			if (!p)
				accept_all(listener);
			else if (peer_serve(p, events[i].events))
				peer_close(p);
		}
	}
}
