/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A small HTTP/1.1 server (RFC 9112) for one page: GET /metrics. It runs on the engine's thread between
 * rounds of the data path, so it is bounded: 8 clients, the oldest makes room for a ninth; a request of at
 * most 4 KiB; one answer a connection. It never blocks and never waits for a client.
 */
#include "daemon/prometheus.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENTS_MAX 8u
#define REQUEST_MAX 4096u

struct client {
	int fd; /* -1: free */
	uint64_t serial;
	size_t request_len;
	char request[REQUEST_MAX];
	char *answer; /* NULL while the request is read */
	size_t answer_len, answer_sent;
};

struct prometheus {
	int epoll_fd, listen_fd;
	void (*report)(void *arg, FILE *out);
	void *arg;
	uint64_t serial;
	char path[108]; /* of the UNIX socket, "" for TCP */
	struct client client[CLIENTS_MAX];
};

static void client_close(struct client *c)
{
	close(c->fd);
	free(c->answer);
	c->fd = -1;
	c->answer = NULL;
}

static void client_accept(struct prometheus *prom)
{
	int fd = accept4(prom->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	struct client *c = &prom->client[0];
	struct epoll_event ev = {.events = EPOLLIN};

	if (fd < 0)
		return;
	for (unsigned i = 0; i < CLIENTS_MAX; i++) {
		if (prom->client[i].fd < 0) {
			c = &prom->client[i];
			break;
		}
		if (prom->client[i].serial < c->serial)
			c = &prom->client[i];
	}
	if (c->fd >= 0)
		client_close(c);
	ev.data.ptr = c;
	if (epoll_ctl(prom->epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
		close(fd);
		return;
	}
	c->fd = fd;
	c->serial = ++prom->serial;
	c->request_len = 0;
}

static bool answer_write(struct prometheus *prom, FILE *out, const char *request)
{
	char *page = NULL;
	size_t page_len = 0;
	bool head = strncmp(request, "HEAD ", 5) == 0;
	const char *path = head ? request + 5 : request + 4;
	FILE *body;

	if (!head && strncmp(request, "GET ", 4) != 0) {
		fputs("HTTP/1.1 405 Method Not Allowed\r\nAllow: GET, HEAD\r\nContent-Length: 0\r\n"
		      "Connection: close\r\n\r\n",
			out);
		return true;
	}
	if (strncmp(path, "/metrics", 8) != 0 || strchr(" ?\r\n", path[8]) == NULL) {
		fputs("HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: 26\r\n"
		      "Connection: close\r\n\r\n",
			out);
		if (!head)
			fputs("the page here is /metrics\n", out);
		return true;
	}
	body = open_memstream(&page, &page_len);
	if (body == NULL)
		return false;
	prom->report(prom->arg, body);
	if (fclose(body) != 0) {
		free(page);
		return false;
	}
	fprintf(out,
		"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
		"Content-Length: %zu\r\nConnection: close\r\n\r\n",
		page_len);
	if (!head)
		fwrite(page, 1, page_len, out);
	free(page);
	return true;
}

static void client_send(struct prometheus *prom, struct client *c)
{
	struct epoll_event ev = {.events = EPOLLOUT, .data.ptr = c};

	while (c->answer_sent < c->answer_len) {
		ssize_t n =
			send(c->fd, c->answer + c->answer_sent, c->answer_len - c->answer_sent, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN && epoll_ctl(prom->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev) == 0)
			return;
		if (n < 0)
			break;
		c->answer_sent += (size_t)n;
	}
	shutdown(c->fd, SHUT_WR);
	client_close(c);
}

static void client_read(struct prometheus *prom, struct client *c)
{
	ssize_t n = recv(c->fd, c->request + c->request_len, REQUEST_MAX - 1 - c->request_len, 0);
	FILE *out;
	bool ok;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		client_close(c);
		return;
	}
	c->request_len += (size_t)n;
	c->request[c->request_len] = '\0';
	if (strstr(c->request, "\r\n\r\n") == NULL && strstr(c->request, "\n\n") == NULL) {
		if (c->request_len == REQUEST_MAX - 1)
			client_close(c);
		return;
	}
	out = open_memstream(&c->answer, &c->answer_len);
	if (out == NULL) {
		client_close(c);
		return;
	}
	ok = answer_write(prom, out, c->request);
	if (fclose(out) != 0 || !ok) {
		client_close(c);
		return;
	}
	c->answer_sent = 0;
	client_send(prom, c);
}

int prometheus_fd(const struct prometheus *prom)
{
	return prom->epoll_fd;
}

void prometheus_poll(struct prometheus *prom)
{
	struct epoll_event ev[CLIENTS_MAX + 1];
	int n = epoll_wait(prom->epoll_fd, ev, CLIENTS_MAX + 1, 0);
	bool new_client = false;

	for (int i = 0; i < n; i++) {
		struct client *c = ev[i].data.ptr;

		if (c == NULL)
			new_client = true;
		else if (c->answer != NULL)
			client_send(prom, c);
		else
			client_read(prom, c);
	}
	if (new_client)
		client_accept(prom);
}

/* A UNIX socket's file that nobody serves any more is in the way: remove it. */
static int unix_listen(struct prometheus *prom, const char *path, char err[256])
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int probe;

	if (strlen(path) >= sizeof(un.sun_path))
		return -ENAMETOOLONG;
	strcpy(un.sun_path, path);
	probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe >= 0) {
		if (connect(probe, (struct sockaddr *)&un, sizeof(un)) != 0 && errno == ECONNREFUSED)
			unlink(path);
		close(probe);
	}
	prom->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (prom->listen_fd < 0 || bind(prom->listen_fd, (struct sockaddr *)&un, sizeof(un)) != 0) {
		int rc = -errno;

		snprintf(err, 256, "prometheus: cannot listen at %s: %s", path, strerror(-rc));
		return rc;
	}
	strcpy(prom->path, path);
	return 0;
}

static int tcp_listen(struct prometheus *prom, const char *where, char err[256])
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	char host[64];
	unsigned port;
	char rest;
	int one = 1;

	if (sscanf(where, "%63[0-9.]:%5u%c", host, &port, &rest) != 2 || port == 0 || port > 65535 ||
		inet_pton(AF_INET, host, &in.sin_addr) != 1) {
		snprintf(err, 256,
			"prometheus is '%.100s'; an address like 127.0.0.1:9199, a path from / on, or off is "
			"allowed",
			where);
		return -EINVAL;
	}
	in.sin_port = htons((uint16_t)port);
	prom->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (prom->listen_fd < 0 ||
		setsockopt(prom->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
		bind(prom->listen_fd, (struct sockaddr *)&in, sizeof(in)) != 0) {
		int rc = -errno;

		snprintf(err, 256, "prometheus: cannot listen on %.100s: %s", where, strerror(-rc));
		return rc;
	}
	return 0;
}

int prometheus_open(const char *where, void (*report)(void *arg, FILE *out), void *arg,
	struct prometheus **out, char err[256])
{
	struct prometheus *prom = calloc(1, sizeof(*prom));
	struct epoll_event ev = {.events = EPOLLIN, .data.ptr = NULL};
	int rc;

	if (prom == NULL) {
		snprintf(err, 256, "prometheus: no memory");
		return -ENOMEM;
	}
	prom->report = report;
	prom->arg = arg;
	prom->listen_fd = -1;
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		prom->client[i].fd = -1;
	prom->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (where[0] == '/')
		rc = unix_listen(prom, where, err);
	else
		rc = tcp_listen(prom, where, err);
	if (rc == 0 && (prom->epoll_fd < 0 || listen(prom->listen_fd, 16) != 0 ||
			       epoll_ctl(prom->epoll_fd, EPOLL_CTL_ADD, prom->listen_fd, &ev) != 0)) {
		rc = -errno;
		snprintf(err, 256, "prometheus: cannot listen: %s", strerror(-rc));
	}
	if (rc != 0) {
		prometheus_close(prom);
		return rc;
	}
	*out = prom;
	return 0;
}

void prometheus_close(struct prometheus *prom)
{
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		if (prom->client[i].fd >= 0)
			client_close(&prom->client[i]);
	if (prom->listen_fd >= 0)
		close(prom->listen_fd);
	if (prom->path[0] != '\0')
		unlink(prom->path);
	if (prom->epoll_fd >= 0)
		close(prom->epoll_fd);
	free(prom);
}
