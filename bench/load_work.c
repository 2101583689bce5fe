// SPDX-License-Identifier: BSD-3-Clause
/*
 * ft-load: the requests and what must come back, made in advance so that checking a reply is one memcmp().
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bench/load.h"

#define ECHO_MESSAGES 1024u

/* Readable bytes that depend on all of seed and length. */
static void fill_text(char *out, uint32_t len, uint64_t seed)
{
	uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
	uint32_t i;

	for (i = 0; i < len; i++)
		out[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-"[load_random(
												    &state) >>
											    58];
}

int workload_echo(struct workload *w, const struct load_options *options)
{
	char *text = malloc((size_t)ECHO_MESSAGES * options->size);
	uint32_t i;

	w->exchanges = calloc(ECHO_MESSAGES, sizeof(*w->exchanges));
	if (!text || !w->exchanges)
		return -ENOMEM;
	for (i = 0; i < ECHO_MESSAGES; i++) {
		char *m = text + (size_t)i * options->size;

		fill_text(m, options->size, i + 1);
		w->exchanges[i] = (struct exchange){m, m, options->size, options->size};
	}
	w->count = w->first_count = ECHO_MESSAGES;
	w->first_percent = 100;
	w->request_max = w->reply_max = options->size;
	return 0;
}

/* One exchange on a blocking-in-effect basis, before anything is measured. */
static int exchange_once(int fd, const struct exchange *x)
{
	uint32_t sent = 0, got = 0;
	char buf[4096];

	while (sent < x->request_len || got < x->reply_len) {
		struct pollfd p = {
			.fd = fd, .events = (short)(sent < x->request_len ? POLLIN | POLLOUT : POLLIN)};
		ssize_t n;

		if (poll(&p, 1, 10000) != 1)
			return -ETIMEDOUT;
		if (sent < x->request_len) {
			n = send(fd, x->request + sent, x->request_len - sent, MSG_NOSIGNAL);
			if (n < 0 && errno != EAGAIN)
				return -errno;
			sent += n > 0 ? (uint32_t)n : 0;
		}
		n = recv(fd, buf, sizeof(buf), 0);
		if (n == 0)
			return -ECONNRESET;
		if (n < 0 && errno != EAGAIN)
			return -errno;
		if (n > 0) {
			if ((uint32_t)n > x->reply_len - got || memcmp(buf, x->reply + got, (size_t)n) != 0)
				return -EBADMSG;
			got += (uint32_t)n;
		}
	}
	return 0;
}

int workload_memcached(struct workload *w, const struct load_options *options)
{
	static const char stored[] = "STORED\r\n";
	uint32_t i, keys = options->keys, room = options->size + 64;
	char *gets = malloc((size_t)keys * room), *sets = malloc((size_t)keys * room),
	     *values = malloc((size_t)keys * room), *value = malloc(options->size + 1);
	int fd, err = 0;

	w->exchanges = calloc((size_t)keys * 2, sizeof(*w->exchanges));
	if (!gets || !sets || !values || !value || !w->exchanges)
		return -ENOMEM;
	for (i = 0; i < keys; i++) {
		char *get = gets + (size_t)i * room, *set = sets + (size_t)i * room,
		     *reply = values + (size_t)i * room;
		struct exchange *g = &w->exchanges[i], *s = &w->exchanges[keys + i];

		fill_text(value, options->size, i + 1);
		value[options->size] = 0;
		g->request_len = (uint32_t)snprintf(get, room, "get key-%08u\r\n", i);
		g->reply_len = (uint32_t)snprintf(
			reply, room, "VALUE key-%08u 0 %u\r\n%s\r\nEND\r\n", i, options->size, value);
		g->request = get;
		g->reply = reply;
		s->request_len = (uint32_t)snprintf(
			set, room, "set key-%08u 0 0 %u\r\n%s\r\n", i, options->size, value);
		s->request = set;
		s->reply = stored;
		s->reply_len = sizeof(stored) - 1;
		if (s->request_len > w->request_max)
			w->request_max = s->request_len;
		if (g->reply_len > w->reply_max)
			w->reply_max = g->reply_len;
	}
	free(value);
	w->count = 2 * keys;
	w->first_count = keys;
	w->first_percent = options->get_percent;

	fd = load_connect(options, true);
	if (fd < 0) {
		fprintf(stderr, "ft-load: cannot connect: %s\n", strerror(-fd));
		return fd;
	}
	for (i = 0; i < keys && !err; i++)
		err = exchange_once(fd, &w->exchanges[keys + i]);
	close(fd);
	if (err)
		fprintf(stderr, "ft-load: storing key %u failed: %s\n", i - 1, strerror(-err));
	return err;
}
