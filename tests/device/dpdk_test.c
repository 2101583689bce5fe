/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * DPDK's ethdevs without hugepages or hardware: net_ring sends to itself, net_null swallows and invents, two
 * net_memif are joined by shared memory; where there is privilege, net_tap (in a namespace of our own) cuts
 * segments as a NIC would. One process starts the EAL once, so its arguments are made for all tests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/checksum.h"
#include "core/wire.h"
#include "device/device.h"

static char eal_args[512], directory[] = "/tmp/flextoe-dpdk-XXXXXX";
static bool have_tap;

static struct device *open_one(const char *name)
{
	const struct dpdk_config config = {.eal_args = eal_args, .device = name};
	struct device_error err = {0};
	struct device *dev;
	int result = dpdk_open(&config, &dev, &err);

	if (result)
		fail_msg("%s: %s", name, err.text);
	return dev;
}

/* Longer than a buffer: it leaves as a chain of buffers and is one frame again where it arrives. */
static void chain_check(struct device *dev)
{
	static uint8_t payload[60000];
	struct device_stats stats;
	struct frame frame;

	for (uint32_t i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)(i * 13 >> 2);
	for (uint32_t len = 1000; len <= 60000; len += 1000) {
		assert_int_equal(dev->ops->tx_alloc(dev, &frame, 1), 1);
		memset(frame.data, 0x55, frame.len = 66);
		frame.frag_count = 1;
		frame.frag[0].data = payload;
		frame.frag[0].len = len;
		assert_int_equal(dev->ops->tx_burst(dev, &frame, 1), 1);
		assert_int_equal(dev->ops->rx_burst(dev, &frame, 1), 1);
		assert_int_equal(frame.len, 66 + len);
		assert_int_equal(frame.data[65], 0x55);
		assert_memory_equal(frame.data + 66, payload, len);
		dev->ops->rx_release(dev, &frame, 1);
	}
	/* More than any packet can be is not taken in, and counted. */
	assert_int_equal(dev->ops->tx_alloc(dev, &frame, 1), 1);
	memset(frame.data, 0, frame.len = 66);
	frame.frag_count = 2;
	frame.frag[0].data = frame.frag[1].data = payload;
	frame.frag[0].len = frame.frag[1].len = 40000;
	assert_int_equal(dev->ops->tx_burst(dev, &frame, 1), 1);
	assert_int_equal(dev->ops->rx_burst(dev, &frame, 1), 0);
	dev->ops->stats(dev, &stats);
	assert_int_equal(stats.rx_dropped, 1);
}

static void test_ring(void **state)
{
	struct device *dev = open_one("net_ring0");
	struct frame frames[32];
	struct device_stats stats;

	(void)state;
	assert_string_equal(dev->name, "net_ring0");
	assert_int_equal(dev->wait_fd, -1);
	assert_true(dev->ops->wait_begin(dev));
	for (unsigned round = 0; round < 1000; round++) {
		unsigned n = 1 + round % 32;

		assert_int_equal(dev->ops->tx_alloc(dev, frames, n), n);
		for (unsigned i = 0; i < n; i++) {
			assert_true(frames[i].room >= dev->mtu + 128);
			memset(frames[i].data, (int)(round + i), frames[i].len = 60 + round);
		}
		assert_int_equal(dev->ops->tx_burst(dev, frames, n), n);
		dev->ops->tx_flush(dev);
		assert_int_equal(dev->ops->rx_burst(dev, frames, 32), n);
		for (unsigned i = 0; i < n; i++) {
			assert_int_equal(frames[i].len, 60 + round);
			assert_int_equal(frames[i].data[0], (uint8_t)(round + i));
			assert_int_equal(frames[i].data[59 + round], (uint8_t)(round + i));
		}
		dev->ops->rx_release(dev, frames, n);
	}
	dev->ops->stats(dev, &stats);
	assert_int_equal(stats.rx_frames, stats.tx_frames);
	assert_int_equal(stats.tx_dropped, 0);
	chain_check(dev);
	dev->ops->close(dev);
}

static void test_null(void **state)
{
	struct device *dev = open_one("net_null0");
	struct frame frames[32];

	(void)state;
	for (unsigned round = 0; round < 1000; round++) {
		unsigned n = dev->ops->rx_burst(dev, frames, 32);

		assert_int_equal(n, 32);
		dev->ops->rx_release(dev, frames, n);
		assert_int_equal(dev->ops->tx_alloc(dev, frames, 32), 32);
		for (unsigned i = 0; i < 32; i++)
			frames[i].len = 64;
		dev->ops->tx_free(dev, &frames[16], 16);
		assert_int_equal(dev->ops->tx_burst(dev, frames, 16), 16);
	}
	dev->ops->close(dev);
}

/* One end sends, the other receives, in bursts; the link takes a moment to come up. */
static void test_memif(void **state)
{
	struct device *a = open_one("net_memif0"), *b = open_one("net_memif1");
	struct device *const ends[] = {a, b};
	const struct timespec pause = {.tv_nsec = 1000 * 1000};
	struct device_stats stats[2];
	struct frame frames[32];
	uint64_t frames_sent[2] = {0};
	unsigned n = 0;

	(void)state;
	for (unsigned tries = 0; tries < 5000 && !n; tries++) {
		assert_int_equal(a->ops->tx_alloc(a, frames, 1), 1);
		memset(frames[0].data, 0, frames[0].len = 60);
		frames_sent[0] += a->ops->tx_burst(a, frames, 1);
		a->ops->tx_flush(a);
		nanosleep(&pause, NULL);
		n = b->ops->rx_burst(b, frames, 32);
	}
	assert_true(n > 0);
	b->ops->rx_release(b, frames, n);
	for (unsigned round = 0; round < 2000; round++) {
		struct device *from = ends[round % 2], *to = ends[1 - round % 2];
		uint8_t payload[600];
		unsigned got = 0;

		n = 1 + round % 32;
		memset(payload, (int)round, sizeof(payload));
		assert_int_equal(from->ops->tx_alloc(from, frames, n), n);
		for (unsigned i = 0; i < n; i++) {
			memset(frames[i].data, (int)(round + i), frames[i].len = 60 + i);
			frames[i].frag_count = 2;
			frames[i].frag[0].data = payload;
			frames[i].frag[0].len = 100;
			frames[i].frag[1].data = payload + 100;
			frames[i].frag[1].len = 500;
		}
		assert_int_equal(from->ops->tx_burst(from, frames, n), n);
		from->ops->tx_flush(from);
		frames_sent[round % 2] += n;
		for (unsigned tries = 0; got < n && tries < 100000; tries++)
			got += to->ops->rx_burst(to, frames + got, 32 - got);
		assert_int_equal(got, n);
		for (unsigned i = 0; i < n; i++) {
			assert_int_equal(frames[i].len, 660 + i);
			assert_int_equal(frames[i].data[59 + i], (uint8_t)(round + i));
			assert_int_equal(frames[i].data[60 + i], (uint8_t)round);
			assert_int_equal(frames[i].data[659 + i], (uint8_t)round);
		}
		to->ops->rx_release(to, frames, n);
	}
	/* What the port cannot do is refused and counted. */
	assert_int_equal(a->ops->tx_alloc(a, frames, 1), 1);
	frames[0].len = 60;
	frames[0].flags = FRAME_TSO | FRAME_CSUM_OFFLOAD;
	assert_false(a->caps & DEVICE_TSO);
	assert_int_equal(a->ops->tx_burst(a, frames, 1), 1);
	for (unsigned i = 0; i < 2; i++) {
		ends[i]->ops->stats(ends[i], &stats[i]);
		assert_int_equal(stats[i].tx_frames, frames_sent[i]);
		assert_int_equal(stats[i].rx_errors, 0);
		ends[i]->ops->close(ends[i]);
	}
	assert_int_equal(stats[0].tx_dropped, 1);
}

#define SUPER_PAYLOAD 60000u
#define SUPER_MSS     1400u /* net_tap counts all headers against its MTU */

/* A super-frame leaves as segments of the size asked for, each with its own sequence number and checksum. */
static void test_tso(void **state)
{
	static uint8_t payload[SUPER_PAYLOAD], got[SUPER_PAYLOAD], packet[2048];
	struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETHTYPE_IPV4_)};
	struct ipv4_hdr *ip = (struct ipv4_hdr *)(packet + 14);
	struct tcp_hdr *tcp = (struct tcp_hdr *)(packet + 34);
	struct device *dev;
	struct frame frame;
	uint32_t have = 0;
	int fd, room = 4 << 20;

	(void)state;
	if (!have_tap)
		skip();
	dev = open_one("net_tap0");
	assert_true(dev->caps & DEVICE_TSO);
	assert_true(dev->max_tso_bytes >= SUPER_PAYLOAD);
	fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(ETHTYPE_IPV4_));
	assert_true(fd >= 0);
	address.sll_ifindex = (int)if_nametoindex("dtt0");
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)), 0);
	for (uint32_t i = 0; i < SUPER_PAYLOAD; i++)
		payload[i] = (uint8_t)(i * 31 >> 3);
	assert_int_equal(dev->ops->tx_alloc(dev, &frame, 1), 1);
	memset(packet, 0, 54);
	memset(packet, 2, 12);
	packet[12] = 8;
	ip->version_ihl = 0x45;
	ip->total_len = to_be16(40 + SUPER_PAYLOAD);
	ip->ttl = 64;
	ip->protocol = IPPROTO_TCP_;
	ip->src = inet_addr("10.77.0.9");
	ip->dst = inet_addr("10.77.0.1");
	ip->checksum = checksum_of(ip, 20);
	tcp->seq = to_be32(1000);
	tcp->data_off = 0x50;
	tcp->flags = TCP_ACK_;
	tcp->checksum = 0x1234; /* whatever pseudo-header's sum: the port's own counts */
	memcpy(frame.data, packet, 54);
	frame.len = 54;
	frame.flags = FRAME_TSO | FRAME_CSUM_OFFLOAD;
	frame.gso_size = SUPER_MSS;
	frame.hdr_len = 54;
	frame.csum_start = 34;
	frame.csum_offset = 16;
	frame.frag_count = 2;
	frame.frag[0].data = payload;
	frame.frag[0].len = 777;
	frame.frag[1].data = payload + 777;
	frame.frag[1].len = SUPER_PAYLOAD - 777;
	assert_int_equal(dev->ops->tx_burst(dev, &frame, 1), 1);
	dev->ops->tx_flush(dev);
	while (have < SUPER_PAYLOAD) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t len;
		uint32_t part;

		assert_int_equal(poll(&p, 1, 2000), 1);
		len = recv(fd, packet, sizeof(packet), 0);
		if (len < 54 || ip->src != inet_addr("10.77.0.9"))
			continue;
		part = (uint32_t)from_be16(ip->total_len) - 40;
		assert_int_equal(part, SUPER_PAYLOAD - have < SUPER_MSS ? SUPER_PAYLOAD - have : SUPER_MSS);
		assert_int_equal(from_be32(tcp->seq), 1000 + have);
		assert_int_equal(checksum_of(ip, 20), 0);
		{
			uint64_t sum = checksum_add(&ip->src, 8, 0) + to_be16(IPPROTO_TCP_) +
				       to_be16((uint16_t)(part + 20));

			assert_int_equal(checksum_fold(checksum_add(tcp, part + 20, sum)), 0xffff);
		}
		memcpy(got + have, packet + 54, part);
		have += part;
	}
	assert_memory_equal(got, payload, SUPER_PAYLOAD);
	close(fd);
	dev->ops->close(dev);
}

static void test_refused(void **state)
{
	const struct dpdk_config nobody = {.eal_args = eal_args, .device = "net_nobody0"};
	const struct dpdk_config nameless = {.eal_args = eal_args};
	const struct dpdk_config again = {.eal_args = eal_args, .device = "net_null1"};
	const struct dpdk_config small = {.eal_args = eal_args, .device = "net_null2", .mtu = 100};
	struct device_error err;
	struct device *dev, *other;
	struct frame frame;

	(void)state;
	assert_int_equal(dpdk_open(&nobody, &dev, &err), -ENODEV);
	assert_non_null(strstr(err.text, "net_nobody0"));
	assert_non_null(strstr(err.text, "net_null1"));
	assert_int_equal(dpdk_open(&nameless, &dev, &err), -EINVAL);
	/* One that is in use stays whole; an MTU that is none is not tried. */
	dev = open_one("net_null1");
	assert_int_equal(dpdk_open(&again, &other, &err), -EBUSY);
	assert_int_equal(dev->ops->tx_alloc(dev, &frame, 1), 1);
	dev->ops->tx_free(dev, &frame, 1);
	dev->ops->close(dev);
	assert_int_equal(dpdk_open(&small, &other, &err), -EINVAL);
	assert_non_null(strstr(err.text, "MTU 100"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ring),
		cmocka_unit_test(test_null),
		cmocka_unit_test(test_memif),
		cmocka_unit_test(test_tso),
		cmocka_unit_test(test_refused),
	};
	int failed;

	if (!mkdtemp(directory))
		return 1;
	have_tap = !access("/dev/net/tun", R_OK | W_OK) && !unshare(CLONE_NEWNET);
	snprintf(eal_args, sizeof(eal_args),
		"--no-huge -m 256 --no-pci --no-telemetry --no-shconf --log-level=error -l 0 "
		"--vdev=net_ring0 "
		"--vdev=net_null0 --vdev=net_null1 --vdev=net_null2 "
		"--vdev=net_memif0,role=server,socket-abstract=no,socket=%s/m "
		"--vdev=net_memif1,role=client,socket-abstract=no,socket=%s/m%s",
		directory, directory, have_tap ? " --vdev=net_tap0,iface=dtt0" : "");
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	{
		char path[64];

		snprintf(path, sizeof(path), "%s/m", directory);
		unlink(path);
	}
	rmdir(directory);
	return failed;
}
