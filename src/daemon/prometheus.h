/* SPDX-License-Identifier: BSD-3-Clause */
/* The counters over HTTP, for Prometheus. Everything on the engine's thread, nothing blocks. */
#ifndef DAEMON_PROMETHEUS_H
#define DAEMON_PROMETHEUS_H

#include <stdio.h>

struct prometheus;

/* where: "127.0.0.1:9199" or a path. report writes the page. 0, or a negative errno and a sentence. */
int prometheus_open(const char *where, void (*report)(void *arg, FILE *out), void *arg,
	struct prometheus **out, char err[256]);
/* Readable when prometheus_poll() has something to do. */
int prometheus_fd(const struct prometheus *prom);
void prometheus_poll(struct prometheus *prom);
void prometheus_close(struct prometheus *prom);

#endif
