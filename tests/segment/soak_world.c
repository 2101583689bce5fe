/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Two engines, each with control plane, native library and one application, over a memory link with a fault
 * device and a bad wire (soak_wire.c) at either end; see soak.h. Nothing here has a clock of its own, and
 * every random choice comes from the seed, so a run repeats exactly.
 */
#include "tests/segment/soak.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* SplitMix64 (Steele, Lea, Flood 2014). */
uint64_t random64(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

/* ---- hosts ---- */

static void host_kick(void *arg, uint32_t context)
{
	(void)arg, (void)context; /* nobody sleeps here */
}

static void host_log(void *arg, const char *line)
{
	if (getenv("SOAK_LOG"))
		fprintf(stderr, "host %u: %s\n", ((struct host *)arg)->number, line);
}

static int host_context(void *arg, uint32_t *number, uint64_t *offset, int *wake_fd, int *doorbell_fd)
{
	struct host *h = arg;

	*doorbell_fd = -1;
	return control_context_open(h->control, h->app, number, offset, wake_fd);
}

int host_app_open(struct world *w, struct host *h)
{
	struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(7000)};
	struct flextoe_memory memory = {
		.conns_max = CONNS_ROOM, .contexts_max = 4, .context_open = host_context, .arg = h};
	struct control_app_info info;
	int r = control_app_open(h->control, "soak", &info);

	if (r < 0)
		return r;
	h->app = info.app;
	memory.base = info.region;
	memory.size = info.region_size;
	r = flextoe_attach_memory(&memory, &h->ft);
	if (r == 0)
		r = flextoe_context_open(h->ft, &h->ctx);
	h->listening = false;
	if (r == 0)
		r = flextoe_listen(h->ctx, &any, (int)w->plan.backlog, 0, NULL, &h->listener);
	return r;
}

void host_app_kill(struct host *h, bool flush)
{
	if (!flush)
		h->ctx->dirty_count = h->ctx->queue_count = 0;
	flextoe_context_close(h->ctx);
	flextoe_close(h->ft);
	control_app_close(h->control, h->app);
	h->ft = NULL;
	h->ctx = NULL;
	h->listening = false;
}

static int host_open(struct world *w, struct host *h, struct device *dev)
{
	const struct soak_plan *p = &w->plan;
	struct datapath_config dc = {.conns_max = CONNS_ROOM,
		.apps_max = 4,
		.contexts_max = 8,
		.ooo_max = p->ooo_max,
		.kick = host_kick};
	struct control_config cc = {.address_count = 1,
		.loop_port = CONTROL_PORT_NONE,
		.apps_max = 4,
		.contexts_max = 8,
		.region_size = p->region_size,
		.rx_shift = p->rx_shift[h->number],
		.tx_shift = p->tx_shift[h->number],
		.ephemeral_low = 40000,
		.ephemeral_high = (uint16_t)(39999u + p->ephemeral_ports),
		.time_wait_ms = p->time_wait_ms,
		.doorbell_fd = -1,
		.secret = {p->seed + 1u, h->number + 1u},
		.log = host_log,
		.log_arg = h};
	char err[256] = "";
	int r;

	h->dev = dev;
	h->copy = copy_memcpy_create(dc.apps_max);
	dc.copy = h->copy;
	h->dp = datapath_create(&dc);
	if (!h->copy || !h->dp)
		return -ENOMEM;
	cc.dp = h->dp;
	cc.address[0].port = (unsigned)datapath_port_add(h->dp, dev);
	cc.address[0].addr = inet_addr(h->number ? "10.0.0.2" : "10.0.0.1");
	cc.address[0].prefix_len = 24;
	r = control_create(&cc, &h->control, err);
	if (r < 0) {
		fprintf(stderr, "soak: %s\n", err);
		return r;
	}
	control_poll(h->control, w->now_us, true);
	return host_app_open(w, h);
}

int world_open(struct world *w, const char *pcap)
{
	const struct soak_plan *p = &w->plan;
	struct link_config lc = {.slots = p->slots,
		.mtu = p->mtu,
		.max_tso_bytes = p->tso_bytes,
		.mac_a = {2, 0, 0, 0, 0, 1},
		.mac_b = {2, 0, 0, 0, 0, 2}};
	struct device_error err = {""};
	int r;

	w->now_us = p->start_us;
	w->random = p->seed ^ 0x5eedull << 32;
	r = link_open_pair(&lc, &w->link[0], &w->link[1], &err);
	for (unsigned i = 0; i < HOSTS && r == 0; i++) {
		struct fault_config fc = {.seed = p->seed * 2u + i,
			.drop_ppm = p->drop_ppm,
			.duplicate_ppm = p->duplicate_ppm,
			.reorder_ppm = p->reorder_ppm,
			/* once a way: two flipped bits may cancel out in a sum */
			.corrupt_ppm = i ? 0 : p->corrupt_ppm,
			.reorder_depth = p->reorder_depth};
		struct device *dev = w->link[i];
		char path[512];

		if (p->wire.delay_us)
			dev = w->wire[i] = long_wire_open(&p->wire, p->seed * 2u + i, &w->now_us, dev);
		r = fault_open(&fc, dev, &dev, &err);
		if (r == 0 && pcap) {
			snprintf(path, sizeof(path), "%s.%u.pcap", pcap, i);
			r = pcap_open_tee(path, dev, &dev, &err);
		}
		if (r < 0)
			break;
		w->host[i].number = i;
		r = host_open(w, &w->host[i], wire_open(w, i, dev, i ? lc.mac_a : lc.mac_b));
	}
	if (r < 0)
		fprintf(stderr, "soak: the world cannot be made: %s (%s)\n", strerror(-r), err.text);
	return r;
}

void world_counters(struct world *w, FILE *out)
{
	for (unsigned i = 0; i < HOSTS; i++) {
		const uint64_t *dp = datapath_counters(w->host[i].dp),
			       *ctl = control_counters(w->host[i].control);

		fprintf(out, "host %u\n", i);
		for (unsigned k = 0; k < COUNTERS; k++)
			if (dp[k] + ctl[k])
				fprintf(out, "%12llu %s\n", (unsigned long long)(dp[k] + ctl[k]),
					counter_info[k].name);
		control_report(w->host[i].control, out, FLEXTOE_STATUS_SS);
	}
}

unsigned world_close(struct world *w)
{
	struct frame frames[64], kept[4096];
	unsigned lost = 0;

	for (unsigned i = 0; i < HOSTS; i++) {
		struct host *h = &w->host[i];

		if (h->ft) {
			flextoe_context_close(h->ctx);
			flextoe_close(h->ft);
		}
		control_quit(h->control);
		for (unsigned k = 0; k < 1000 && !control_is_quiet(h->control); k++) {
			w->now_us += 1000;
			control_poll(h->control, w->now_us, true);
			datapath_poll(h->dp, w->now_us);
		}
		lost += !control_is_quiet(h->control) * 1000000u;
		control_destroy(h->control);
		datapath_destroy(h->dp);
		h->copy->ops->close(h->copy);
	}
	for (unsigned i = 0; i < HOSTS; i++) { /* what is still under way comes home */
		unsigned n;

		while ((n = w->link[i]->ops->rx_burst(w->link[i], frames, 64)))
			w->link[i]->ops->rx_release(w->link[i], frames, n);
		w->link[i]->ops->tx_flush(w->link[i]);
	}
	for (unsigned i = 0; i < HOSTS; i++) {
		unsigned n = 0, got;

		while (n < 4096 - 32 && (got = w->link[i]->ops->tx_alloc(w->link[i], &kept[n], 32)))
			n += got;
		lost += w->plan.slots - n;
		w->link[i]->ops->tx_free(w->link[i], kept, n);
	}
	for (unsigned i = 0; i < HOSTS; i++)
		w->host[i].dev->ops->close(w->host[i].dev);
	return lost;
}
