/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control channel: clients that connect, send what they like (with descriptors attached), read or do not,
 * and hang up. No descriptor may stay open, no application may stay. The socket is a real one, in TMPDIR.
 */
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz.h"

#define CLIENTS 4u

static unsigned open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	while (dir && readdir(dir))
		n++;
	if (dir)
		closedir(dir);
	return n;
}

static int client_connect(const char *path)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (fd >= 0 && connect(fd, (const void *)&addr, sizeof(addr)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

static void client_send(int fd, struct input *in)
{
	static const uint32_t sizes[] = {0, sizeof(struct flextoe_msg_hello),
		sizeof(struct flextoe_msg_context), 0, 0, sizeof(struct flextoe_msg_conn_info),
		sizeof(struct flextoe_msg_status), 0};
	union {
		struct flextoe_msg_header header;
		uint8_t bytes[2048];
	} msg;
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	uint8_t type = take8(in) & 7u, how = take8(in);
	uint32_t len = sizes[type] ? sizes[type] : take16(in) % sizeof(msg.bytes);
	struct iovec iov = {.iov_base = &msg};
	struct msghdr mh = {.msg_iov = &iov, .msg_iovlen = 1};

	memset(&msg, 0, sizeof(msg));
	if (how & 1u)
		len = take16(in) % sizeof(msg.bytes);
	for (uint32_t i = sizeof(msg.header); i < len && in->left; i++)
		msg.bytes[i] = take8(in);
	msg.header = (struct flextoe_msg_header){.version = FLEXTOE_ABI_VERSION, .type = type, .length = len};
	if (how & 2u)
		msg.bytes[take8(in) % sizeof(msg.header)] = take8(in);
	iov.iov_len = len;
	if (how & 4u) {
		struct cmsghdr *cmsg = &control.align;

		memset(&control, 0, sizeof(control));
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &fd, sizeof(fd));
		mh.msg_control = control.bytes;
		mh.msg_controllen = sizeof(control.bytes);
	}
	sendmsg(fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void client_read(int fd)
{
	static uint8_t bytes[FLEXTOE_MSG_MAX];

	/* descriptors that come along are not taken: the kernel closes them */
	while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

static void steps(struct datapath *dp, struct control *control, uint64_t *now_us, unsigned n)
{
	while (n--) {
		*now_us += 10000;
		control_poll(control, *now_us, true);
		datapath_poll(dp, *now_us);
	}
}

static void kick(void *arg, uint32_t context)
{
	(void)arg, (void)context;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size < 4096 ? size : 4096};
	const char *tmp = getenv("TMPDIR");
	char path[100], err[256];
	struct datapath_config dc = {.conns_max = 16, .apps_max = 3, .contexts_max = 6, .kick = kick};
	struct control_config cc = {.apps_max = 3,
		.contexts_max = 6,
		.region_size = 16u << 20,
		.rx_shift = 12,
		.loop_port = CONTROL_PORT_NONE,
		.socket_path = path,
		.doorbell_fd = STDERR_FILENO,
		.secret = {1, 2}};
	struct control *control;
	struct datapath *dp;
	int client[CLIENTS];
	uint64_t now_us = 1000000;
	unsigned fds;

	fds = open_fds();
	snprintf(path, sizeof(path), "%.60s/flextoe-fuzz-%d", tmp ? tmp : "/tmp", (int)getpid());
	dc.copy = copy_memcpy_create(3);
	dp = cc.dp = datapath_create(&dc);
	MUST(dp && control_create(&cc, &control, err) == 0);
	for (unsigned i = 0; i < CLIENTS; i++)
		client[i] = -1;
	while (in.left) {
		uint8_t what = take8(&in);
		int *fd = &client[what % CLIENTS];

		if (*fd < 0) {
			*fd = client_connect(path);
			steps(dp, control, &now_us, 1);
			continue;
		}
		switch (what / CLIENTS % 8u) {
		case 0:
			close(*fd);
			*fd = -1;
			break;
		case 1:
			client_read(*fd);
			break;
		case 2:
			steps(dp, control, &now_us, 1);
			break;
		case 3:
			shutdown(*fd, take8(&in) % 3);
			break;
		default:
			client_send(*fd, &in);
			break;
		}
	}
	steps(dp, control, &now_us, 20);
	for (unsigned i = 0; i < CLIENTS; i++)
		if (client[i] >= 0)
			close(client[i]);
	steps(dp, control, &now_us, 200);
	MUST(control_books_closed(control));
	control_destroy(control);
	datapath_destroy(dp);
	dc.copy->ops->close(dc.copy);
	MUST(open_fds() == fds);
	return 0;
}
