/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Makes the memory and the doorbells of a link (link.c moves the frames). Called once per end, by any thread.
 *
 * Between two processes three descriptors are needed (the memory and two eventfds), but one is what the
 * caller passes on: link_create() puts them into a socket pair and hands out its far end. The memory is
 * sealed against shrinking, so that neither process can make the other fault.
 */
#include "device/link.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* Where things lie in the shared memory; a pure function of slots, mtu and max_tso_bytes. */
struct layout {
	uint32_t room;	 /* bytes of a frame */
	uint32_t stride; /* of a buffer */
	size_t sent[2], back[2], buffers[2];
	size_t bytes;
};

static size_t place(size_t *at, size_t bytes, size_t align)
{
	size_t start = (*at + align - 1) & ~(align - 1);

	*at = start + bytes;
	return start;
}

static void layout_make(struct layout *layout, uint32_t slots, uint32_t mtu, uint32_t max_tso_bytes)
{
	/* 14 bytes of Ethernet header, 4 of a VLAN tag, up to 120 of IP and TCP headers before a
	   super-frame's payload; device.h promises 128 more than the MTU. */
	uint32_t plain = mtu + 128, super = max_tso_bytes ? max_tso_bytes + 138 : 0;
	size_t at = sizeof(struct link_header);

	layout->room = plain > super ? plain : super;
	layout->stride = buffers_stride(LINK_HEADROOM + layout->room);
	for (unsigned i = 0; i < 2; i++) {
		layout->sent[i] = place(&at, slots * sizeof(struct link_slot), CACHE_LINE);
		layout->back[i] = place(&at, slots * sizeof(uint32_t), CACHE_LINE);
	}
	for (unsigned i = 0; i < 2; i++)
		layout->buffers[i] = place(&at, (size_t)slots * layout->stride, 4096);
	layout->bytes = (at + 4095) & ~(size_t)4095;
}

static void end_init(
	struct link_end *end, uint8_t *base, const struct layout *layout, uint32_t slots, unsigned direction)
{
	end->shared = &((struct link_header *)base)->direction[direction];
	end->sent = (struct link_slot *)(base + layout->sent[direction]);
	end->back = (uint32_t *)(base + layout->back[direction]);
	end->buffers = base + layout->buffers[direction];
	end->slots = slots;
	end->stride = layout->stride;
	end->room = layout->room;
}

void link_memory_put(struct link_memory *memory)
{
	if (!memory || __atomic_sub_fetch(&memory->holders, 1, __ATOMIC_ACQ_REL))
		return;
	munmap(memory->base, memory->bytes);
	free(memory);
}

/* Maps fd, or anonymous memory when it is -1. */
static struct link_memory *memory_map(int fd, size_t bytes)
{
	struct link_memory *memory = calloc(1, sizeof(*memory));

	if (!memory)
		return NULL;
	memory->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		fd < 0 ? MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (memory->base == MAP_FAILED) {
		free(memory);
		return NULL;
	}
	memory->bytes = bytes;
	memory->holders = 1;
	return memory;
}

static int config_check(struct link_config *config, struct device_error *err)
{
	if (!config->slots)
		config->slots = 1024;
	if (!config->mtu)
		config->mtu = 1500;
	if (config->slots & (config->slots - 1) || config->slots > LINK_SLOTS_MAX)
		return device_fail(err, -EINVAL, "%u slots: must be a power of two up to %u", config->slots,
			LINK_SLOTS_MAX);
	if (config->mtu < 68 || config->mtu > 65535)
		return device_fail(err, -EINVAL, "MTU %u is not between 68 and 65535", config->mtu);
	if (config->max_tso_bytes > 65535 - 40)
		return device_fail(err, -EINVAL, "super-frames of %u bytes do not fit an IP packet",
			config->max_tso_bytes);
	return 0;
}

/*
 * One end over mapped memory. Takes over wait_fd and peer_fd, also when it fails; takes a hold of the memory
 * only when it succeeds. rx_direction and tx_direction are the same for a loop.
 */
static struct link *link_make(const struct link_config *config, struct link_memory *memory,
	unsigned rx_direction, unsigned tx_direction, const uint8_t mac[6], int wait_fd, int peer_fd)
{
	struct link *link = calloc(1, sizeof(*link));
	struct layout layout;

	if (wait_fd < 0 || peer_fd < 0 || !link)
		goto fail;
	layout_make(&layout, config->slots, config->mtu, config->max_tso_bytes);
	end_init(&link->rx, memory->base, &layout, config->slots, rx_direction);
	end_init(&link->tx, memory->base, &layout, config->slots, tx_direction);
	link->tx.free = calloc(config->slots, sizeof(*link->tx.free));
	link->tx.away = calloc(config->slots, 1);
	if (!link->tx.free || !link->tx.away)
		goto fail;
	for (uint32_t i = 0; i < config->slots; i++)
		link->tx.free[link->tx.free_count++] = config->slots - 1 - i;
	link->dev.ops = &link_ops;
	link->dev.caps = DEVICE_RX_CSUM | DEVICE_TX_CSUM;
	if (config->max_tso_bytes)
		link->dev.caps |= DEVICE_TSO | DEVICE_RX_COALESCED;
	link->dev.mtu = config->mtu;
	link->dev.max_tso_bytes = config->max_tso_bytes;
	device_mac_choose(link->dev.mac, mac);
	link->dev.wait_fd = wait_fd;
	link->peer_fd = peer_fd;
	link->memory = memory;
	__atomic_add_fetch(&memory->holders, 1, __ATOMIC_RELAXED);
	return link;
fail:
	if (wait_fd >= 0)
		close(wait_fd);
	if (peer_fd >= 0)
		close(peer_fd);
	if (link) {
		free(link->tx.free);
		free(link->tx.away);
		free(link);
	}
	return NULL;
}

static int bell_make(void)
{
	return eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static int bell_copy(int fd)
{
	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

/* Fills in the header of fresh memory, and b's address if the caller left it open. */
static void header_fill(struct link_memory *memory, struct link_config *config)
{
	struct link_header *header = (struct link_header *)memory->base;

	device_mac_choose(config->mac_b, config->mac_b);
	header->version = LINK_VERSION;
	header->slots = config->slots;
	header->mtu = config->mtu;
	header->max_tso_bytes = config->max_tso_bytes;
	memcpy(header->mac_b, config->mac_b, 6);
	header->magic = LINK_MAGIC;
}

/* Checks and completes the configuration, and makes the memory of a link within this process. */
static int memory_begin(struct link_config *config, struct link_memory **memory, struct device_error *err)
{
	struct layout layout;
	int result = config_check(config, err);

	if (result)
		return result;
	layout_make(&layout, config->slots, config->mtu, config->max_tso_bytes);
	*memory = memory_map(-1, layout.bytes);
	if (!*memory)
		return device_fail(err, -ENOMEM, "no memory for a link of %zu bytes", layout.bytes);
	header_fill(*memory, config);
	return 0;
}

int link_open_pair(const struct link_config *given, struct device **out_a, struct device **out_b,
	struct device_error *err)
{
	struct link_config config = *given;
	struct link_memory *memory;
	struct link *a, *b = NULL;
	int bell_a, bell_b, result;

	result = memory_begin(&config, &memory, err);
	if (result)
		return result;
	bell_a = bell_make();
	bell_b = bell_make();
	a = link_make(&config, memory, 1, 0, config.mac_a, bell_copy(bell_a), bell_copy(bell_b));
	if (a)
		b = link_make(&config, memory, 0, 1, config.mac_b, bell_b, bell_a);
	if (!a && bell_a >= 0)
		close(bell_a);
	if (!a && bell_b >= 0)
		close(bell_b);
	link_memory_put(memory);
	if (!b) {
		if (a)
			link_ops.close(&a->dev);
		return device_fail(err, -ENOMEM, "no memory or no descriptors left for a link");
	}
	snprintf(a->dev.name, sizeof(a->dev.name), "link-a");
	snprintf(b->dev.name, sizeof(b->dev.name), "link-b");
	*out_a = &a->dev;
	*out_b = &b->dev;
	return 0;
}

int link_open_loop(const struct link_config *given, struct device **out, struct device_error *err)
{
	struct link_config config = *given;
	struct link_memory *memory;
	struct link *loop;
	int bell, result;

	result = memory_begin(&config, &memory, err);
	if (result)
		return result;
	bell = bell_make();
	loop = link_make(&config, memory, 0, 0, config.mac_a, bell, bell_copy(bell));
	link_memory_put(memory);
	if (!loop)
		return device_fail(err, -ENOMEM, "no memory or no descriptors left for a link");
	snprintf(loop->dev.name, sizeof(loop->dev.name), "link-loop");
	*out = &loop->dev;
	return 0;
}

/* Queues the descriptors in a fresh socket pair; returns the end to receive them from, or a negative errno.
 */
static int descriptors_pack(const int fds[3])
{
	union {
		char space[CMSG_SPACE(3 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	char byte = 0;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
	int pair[2], error = 0;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return -errno;
	cmsg->cmsg_level = SOL_SOCKET;
	cmsg->cmsg_type = SCM_RIGHTS;
	cmsg->cmsg_len = CMSG_LEN(3 * sizeof(int));
	memcpy(CMSG_DATA(cmsg), fds, 3 * sizeof(int));
	if (sendmsg(pair[0], &msg, 0) != 1)
		error = -errno;
	close(pair[0]);
	if (!error)
		return pair[1];
	close(pair[1]);
	return error;
}

static int descriptors_unpack(int socket_fd, int fds[3])
{
	union {
		char space[CMSG_SPACE(3 * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	char byte;
	struct iovec iov = {&byte, 1};
	struct msghdr msg = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control.space,
		.msg_controllen = sizeof(control.space)};
	struct cmsghdr *cmsg;
	ssize_t got = recvmsg(socket_fd, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);

	if (got < 0)
		return -errno;
	cmsg = CMSG_FIRSTHDR(&msg);
	if (got != 1 || !cmsg || cmsg->cmsg_level != SOL_SOCKET || cmsg->cmsg_type != SCM_RIGHTS)
		return -EPROTO;
	if (cmsg->cmsg_len != CMSG_LEN(3 * sizeof(int))) {
		unsigned count = (unsigned)((cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int));

		for (unsigned i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(cmsg) + i * sizeof(int), sizeof(fd));
			close(fd);
		}
		return -EPROTO;
	}
	memcpy(fds, CMSG_DATA(cmsg), 3 * sizeof(int));
	return 0;
}

int link_create(const struct link_config *given, int *fd, struct device **out, struct device_error *err)
{
	struct link_config config = *given;
	struct link_memory *memory = NULL;
	int fds[3] = {-1, -1, -1}; /* memory, a's bell, b's bell */
	struct link *a = NULL;
	struct layout layout;
	int result = config_check(&config, err);

	if (result)
		return result;
	layout_make(&layout, config.slots, config.mtu, config.max_tso_bytes);
	fds[0] = memfd_create("flextoe-link", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fds[0] < 0 || ftruncate(fds[0], (off_t)layout.bytes) || fcntl(fds[0], F_ADD_SEALS, SEALS)) {
		result = device_fail(err, -errno, "no shared memory for a link of %zu bytes: %s",
			layout.bytes, strerror(errno));
		goto out;
	}
	memory = memory_map(fds[0], layout.bytes);
	if (!memory) {
		result = device_fail(err, -ENOMEM, "cannot map a link of %zu bytes", layout.bytes);
		goto out;
	}
	header_fill(memory, &config);
	fds[1] = bell_make();
	fds[2] = bell_make();
	a = link_make(&config, memory, 1, 0, config.mac_a, bell_copy(fds[1]), bell_copy(fds[2]));
	if (!a) {
		result = device_fail(err, -ENOMEM, "no memory or no descriptors left for a link");
		goto out;
	}
	snprintf(a->dev.name, sizeof(a->dev.name), "link-a");
	result = descriptors_pack(fds);
	if (result < 0) {
		device_fail(err, result, "cannot pass a link on: %s", strerror(-result));
		link_ops.close(&a->dev);
		goto out;
	}
	*fd = result;
	*out = &a->dev;
	result = 0;
out:
	link_memory_put(memory);
	for (unsigned i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return result;
}

int link_attach(int fd, struct device **out, struct device_error *err)
{
	struct link_config config = {0};
	struct link_header header;
	struct link_memory *memory = NULL;
	struct link *b;
	struct layout layout;
	struct stat st;
	int fds[3] = {-1, -1, -1};
	int result = descriptors_unpack(fd, fds);

	if (result)
		return device_fail(err, result,
			"this descriptor is not the far end of a link, or was attached already: %s",
			strerror(-result));
	if (fstat(fds[0], &st) || st.st_size < (off_t)sizeof(header) ||
		(fcntl(fds[0], F_GET_SEALS) & SEALS) != SEALS ||
		pread(fds[0], &header, sizeof(header), 0) != sizeof(header) || header.magic != LINK_MAGIC) {
		result = device_fail(err, -EPROTO, "this is not the memory of a link");
		goto out;
	}
	if (header.version != LINK_VERSION) {
		result = device_fail(err, -EPROTO, "a link of version %u, this end knows version %u",
			header.version, LINK_VERSION);
		goto out;
	}
	config.slots = header.slots;
	config.mtu = header.mtu;
	config.max_tso_bytes = header.max_tso_bytes;
	result = config_check(&config, err);
	if (result)
		goto out;
	layout_make(&layout, config.slots, config.mtu, config.max_tso_bytes);
	if (config.slots != header.slots || config.mtu != header.mtu || (size_t)st.st_size < layout.bytes) {
		result = device_fail(err, -EPROTO, "this is not the memory of a link");
		goto out;
	}
	memory = memory_map(fds[0], layout.bytes);
	b = memory ? link_make(&config, memory, 0, 1, header.mac_b, fds[2], fds[1]) : NULL;
	if (memory)
		fds[1] = fds[2] = -1;
	if (!b) {
		result = device_fail(err, -ENOMEM, "cannot map a link of %zu bytes", layout.bytes);
		goto out;
	}
	snprintf(b->dev.name, sizeof(b->dev.name), "link-b");
	*out = &b->dev;
out:
	link_memory_put(memory);
	for (unsigned i = 0; i < 3; i++)
		if (fds[i] >= 0)
			close(fds[i]);
	return result;
}
