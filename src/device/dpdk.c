/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Any DPDK ethdev, one queue of it, polled by the one thread that uses the device. The environment (EAL) is
 * started by the first dpdk_open() of a process, with its arguments, and stays until the process ends: DPDK
 * cannot start it twice. Frames are mbufs; the frame's cookie is the mbuf.
 */
#include "device/internal.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>

#define RING_SIZE    1024u
#define POOL_CACHE   256u
#define BURST_MAX    64u
#define EAL_ARGS     64u
#define EAL_TEXT     1024u
#define CHECKSUMS_TX (RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM)

struct dpdk {
	struct device dev;
	uint16_t port, queue;
	bool started;
	uint32_t room;
	struct rte_mempool *pool;
	struct device_stats stats; /* what the port does not count */
};

static struct dpdk *dpdk_of(struct device *dev)
{
	return container_of(dev, struct dpdk, dev);
}

static struct rte_mbuf *mbuf_of(const struct frame *frame)
{
	return (struct rte_mbuf *)(uintptr_t)frame->cookie;
}

static unsigned dpdk_rx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct dpdk *dpdk = dpdk_of(dev);
	struct rte_mbuf *mbufs[BURST_MAX];
	unsigned count, got = 0;

	count = rte_eth_rx_burst(dpdk->port, dpdk->queue, mbufs, (uint16_t)(n < BURST_MAX ? n : BURST_MAX));
	for (unsigned i = 0; i < count; i++) {
		struct rte_mbuf *mbuf = mbufs[i];
		struct frame *frame = &frames[got];

		/* A frame in several buffers is moved together, if it fits one. */
		if (unlikely((mbuf->nb_segs > 1 && rte_pktmbuf_linearize(mbuf)) || mbuf->data_len < 14)) {
			dpdk->stats.rx_errors++;
			rte_pktmbuf_free(mbuf);
			continue;
		}
		memset(frame, 0, sizeof(*frame));
		frame->data = rte_pktmbuf_mtod(mbuf, uint8_t *);
		prefetch(frame->data);
		frame->len = mbuf->data_len;
		frame->cookie = (uintptr_t)mbuf;
		if ((mbuf->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_GOOD)
			frame->flags = FRAME_CSUM_GOOD;
		dpdk->stats.rx_bytes += frame->len;
		got++;
	}
	dpdk->stats.rx_frames += got;
	return got;
}

static void dpdk_free(struct device *dev, struct frame *frames, unsigned n)
{
	(void)dev;
	for (unsigned i = 0; i < n; i++)
		rte_pktmbuf_free(mbuf_of(&frames[i]));
}

static unsigned dpdk_tx_alloc(struct device *dev, struct frame *frames, unsigned n)
{
	struct dpdk *dpdk = dpdk_of(dev);
	struct rte_mbuf *mbufs[BURST_MAX];

	if (n > BURST_MAX)
		n = BURST_MAX;
	while (n && rte_pktmbuf_alloc_bulk(dpdk->pool, mbufs, n))
		n /= 2;
	for (unsigned i = 0; i < n; i++) {
		memset(&frames[i], 0, sizeof(frames[i]));
		frames[i].data = rte_pktmbuf_mtod(mbufs[i], uint8_t *);
		frames[i].room = dpdk->room;
		frames[i].cookie = (uintptr_t)mbufs[i];
	}
	return n;
}

/* Hands a frame's length and checksum request over to its mbuf. */
static void mbuf_fill(struct rte_mbuf *mbuf, const struct frame *frame)
{
	mbuf->data_off = (uint16_t)(frame->data - (uint8_t *)mbuf->buf_addr);
	mbuf->data_len = (uint16_t)frame->len;
	mbuf->pkt_len = frame->len;
	if (!(frame->flags & FRAME_CSUM_OFFLOAD))
		return;
	mbuf->ol_flags = RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_TCP_CKSUM;
	mbuf->l2_len = 14;
	mbuf->l3_len = (uint64_t)(frame->csum_start - 14) & 0x1ff;
}

static unsigned dpdk_tx_burst(struct device *dev, struct frame *frames, unsigned n)
{
	struct dpdk *dpdk = dpdk_of(dev);
	unsigned done = 0;

	while (done < n) {
		struct rte_mbuf *mbufs[BURST_MAX];
		unsigned count = n - done < BURST_MAX ? n - done : BURST_MAX, sent;

		for (unsigned i = 0; i < count; i++) {
			mbufs[i] = mbuf_of(&frames[done + i]);
			mbuf_fill(mbufs[i], &frames[done + i]);
		}
		sent = rte_eth_tx_burst(dpdk->port, dpdk->queue, mbufs, (uint16_t)count);
		for (unsigned i = 0; i < sent; i++)
			dpdk->stats.tx_bytes += frames[done + i].len;
		dpdk->stats.tx_frames += sent;
		done += sent;
		if (sent < count)
			break;
	}
	return done;
}

static void dpdk_tx_flush(struct device *dev)
{
	(void)dev; /* tx_burst() rings the doorbell itself */
}

static bool dpdk_wait_begin(struct device *dev)
{
	(void)dev;
	return true; /* poll mode: there is nothing to wait for */
}

static void dpdk_wait_end(struct device *dev)
{
	(void)dev;
}

static void dpdk_stats(struct device *dev, struct device_stats *out)
{
	struct dpdk *dpdk = dpdk_of(dev);
	struct rte_eth_stats port;

	*out = dpdk->stats;
	if (rte_eth_stats_get(dpdk->port, &port))
		return;
	out->rx_dropped += port.imissed + port.rx_nombuf;
	out->rx_errors += port.ierrors;
	out->tx_dropped += port.oerrors;
}

static void dpdk_close(struct device *dev)
{
	struct dpdk *dpdk = dpdk_of(dev);

	if (dpdk->started)
		rte_eth_dev_stop(dpdk->port);
	if (dpdk->port != RTE_MAX_ETHPORTS)
		rte_eth_dev_close(dpdk->port);
	rte_mempool_free(dpdk->pool);
	free(dpdk);
}

static const struct device_ops dpdk_ops = {
	.name = "dpdk",
	.rx_burst = dpdk_rx_burst,
	.rx_release = dpdk_free,
	.tx_alloc = dpdk_tx_alloc,
	.tx_burst = dpdk_tx_burst,
	.tx_free = dpdk_free,
	.tx_flush = dpdk_tx_flush,
	.wait_begin = dpdk_wait_begin,
	.wait_end = dpdk_wait_end,
	.stats = dpdk_stats,
	.close = dpdk_close,
};

/* Starts the EAL once. It pins the calling thread to a core; ours chooses its own, so that is undone. */
static int eal_start(const char *args, struct device_error *err)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static char text[EAL_TEXT]; /* the EAL keeps pointers into it */
	static bool started;
	char *argv[EAL_ARGS], *rest = text;
	cpu_set_t cpus;
	int argc = 0, result = 0;

	pthread_mutex_lock(&lock);
	if (started)
		goto out;
	if (snprintf(text, sizeof(text), "flextoe %s", args ? args : "") >= (int)sizeof(text)) {
		result = device_fail(err, -EINVAL, "DPDK arguments are longer than %u characters", EAL_TEXT);
		goto out;
	}
	while (argc < (int)EAL_ARGS - 1 && (argv[argc] = strtok_r(rest, " \t", &rest)))
		argc++;
	argv[argc] = NULL;
	pthread_getaffinity_np(pthread_self(), sizeof(cpus), &cpus);
	if (rte_eal_init(argc, argv) < 0)
		result = device_fail(err, rte_errno ? -rte_errno : -EINVAL,
			"DPDK did not start with \"%s\": %s (without hugepages: --no-huge -m 256)",
			args ? args : "", rte_strerror(rte_errno));
	else
		started = true;
	pthread_setaffinity_np(pthread_self(), sizeof(cpus), &cpus);
out:
	pthread_mutex_unlock(&lock);
	return result;
}

/* A device that --vdev failed to make does not fail the EAL: look whether it is there, or make it now. */
static int port_find(const char *name, uint16_t *port, struct device_error *err)
{
	int result;

	if (!name || !*name)
		return device_fail(
			err, -EINVAL, "DPDK needs the name of a device, such as net_memif0 or 0000:01:00.0");
	if (!rte_eth_dev_get_port_by_name(name, port))
		return 0;
	result = rte_dev_probe(name);
	if (!result && !rte_eth_dev_get_port_by_name(name, port))
		return 0;
	return device_fail(
		err, -ENODEV, "DPDK has no device %s; it found %u others", name, rte_eth_dev_count_avail());
}

static int port_start(struct dpdk *dpdk, struct device_error *err)
{
	struct rte_eth_conf conf = {0};
	struct rte_eth_dev_info info;
	struct rte_ether_addr mac;
	uint16_t rx_size = RING_SIZE, tx_size = RING_SIZE, mtu = 1500, queues = (uint16_t)(dpdk->queue + 1);
	int socket = rte_eth_dev_socket_id(dpdk->port);
	const char *name = dpdk->dev.name;
	char pool[32];
	int result = rte_eth_dev_info_get(dpdk->port, &info);

	if (result)
		return device_fail(err, result, "%s: cannot be asked about: %s", name, rte_strerror(-result));
	if (queues > info.max_rx_queues || queues > info.max_tx_queues)
		return device_fail(err, -EINVAL, "%s: has no queue %u", name, dpdk->queue);
	conf.rxmode.offloads = info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
	if ((info.tx_offload_capa & CHECKSUMS_TX) == CHECKSUMS_TX)
		conf.txmode.offloads = CHECKSUMS_TX;
	rte_eth_dev_get_mtu(dpdk->port, &mtu);
	dpdk->dev.mtu = mtu;
	dpdk->room = mtu + 128u < 2048 ? 2048 : mtu + 128u;
	if (dpdk->room > UINT16_MAX - RTE_PKTMBUF_HEADROOM)
		return device_fail(err, -EINVAL, "%s: MTU %u does not fit DPDK's buffers", name, mtu);
	result = rte_eth_dev_configure(dpdk->port, queues, queues, &conf);
	if (!result)
		result = rte_eth_dev_adjust_nb_rx_tx_desc(dpdk->port, &rx_size, &tx_size);
	if (result)
		return device_fail(err, result, "%s: cannot be configured: %s", name, rte_strerror(-result));
	snprintf(pool, sizeof(pool), "flextoe_%u", dpdk->port);
	dpdk->pool = rte_pktmbuf_pool_create(pool, (unsigned)(queues * (rx_size + tx_size) + 2 * POOL_CACHE),
		POOL_CACHE, 0, (uint16_t)(dpdk->room + RTE_PKTMBUF_HEADROOM), socket);
	if (!dpdk->pool)
		return device_fail(
			err, -ENOMEM, "%s: no memory for frame buffers: %s", name, rte_strerror(rte_errno));
	for (uint16_t q = 0; q < queues && !result; q++) {
		result = rte_eth_rx_queue_setup(dpdk->port, q, rx_size, (unsigned)socket, NULL, dpdk->pool);
		if (!result)
			result = rte_eth_tx_queue_setup(dpdk->port, q, tx_size, (unsigned)socket, NULL);
	}
	if (!result)
		result = rte_eth_dev_start(dpdk->port);
	if (result)
		return device_fail(err, result, "%s: cannot be started: %s", name, rte_strerror(-result));
	dpdk->started = true;
	if (!rte_eth_macaddr_get(dpdk->port, &mac))
		memcpy(dpdk->dev.mac, mac.addr_bytes, 6);
	device_mac_choose(dpdk->dev.mac, dpdk->dev.mac);
	if (conf.rxmode.offloads)
		dpdk->dev.caps |= DEVICE_RX_CSUM;
	if (conf.txmode.offloads)
		dpdk->dev.caps |= DEVICE_TX_CSUM;
	return 0;
}

int dpdk_open(const struct dpdk_config *config, struct device **out, struct device_error *err)
{
	struct dpdk *dpdk;
	int result = eal_start(config->eal_args, err);

	if (result)
		return result;
	if (config->queue > 1023)
		return device_fail(err, -EINVAL, "queue %u is out of range", config->queue);
	dpdk = calloc(1, sizeof(*dpdk));
	if (!dpdk)
		return device_fail(err, -ENOMEM, "out of memory");
	dpdk->dev.ops = &dpdk_ops;
	dpdk->dev.wait_fd = -1;
	dpdk->queue = (uint16_t)config->queue;
	dpdk->port = RTE_MAX_ETHPORTS;
	result = port_find(config->device, &dpdk->port, err);
	if (!result) {
		snprintf(dpdk->dev.name, sizeof(dpdk->dev.name), "%s", config->device);
		result = port_start(dpdk, err);
	}
	if (result) {
		dpdk_close(&dpdk->dev);
		return result;
	}
	if (err)
		err->text[0] = 0;
	*out = &dpdk->dev;
	return 0;
}
