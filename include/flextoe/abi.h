/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The shared-memory boundary between an application and the engine.
 *
 * Every application has one memory region (a sealed memfd) of its own; no application sees another's. The
 * region starts with the context areas (rings and one-way words), behind them lie the payload buffers of the
 * application's connections. Addresses are always offsets into the region.
 *
 * A context is a pair of single-producer single-consumer rings of 32-byte descriptors:
 *
 *      application --- host control (struct flextoe_hc) ---> engine
 *      application <-- notifications (struct flextoe_ntf) -- engine
 *
 * A slot is valid when its mark byte is that of the consumer's current lap (flextoe_mark()); the producer
 * writes the mark last, with release order. The consumer tells its progress with a one-way word, a running
 * count that the producer looks at only when its last look says "full". Nobody writes what the other writes.
 *
 * The engine trusts nothing here: it copies a descriptor out once and then checks the copy. What an
 * application breaks is its own: a bad descriptor or count ends that application's context.
 *
 * Stream positions in descriptors are absolute: the number of bytes since the start of the stream in that
 * direction, modulo 2^32. They only move forward, so a descriptor that comes late, twice or over another *
 * context of the application does no harm.
 *
 * A buffer is a ring: position p lies at offset (p - origin) modulo its size. Whoever fills a buffer may move
 * its origin to the next position while the buffer is empty, so that a connection of small messages uses the
 * same few cache lines again and again and no more pages than it needs. The new origin comes with the bytes:
 * in the descriptor that first tells of them.
 */
#ifndef FLEXTOE_ABI_H
#define FLEXTOE_ABI_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FLEXTOE_ABI_VERSION 2u

#define FLEXTOE_HC_SLOTS  1024u /* slots of a host-control ring; power of two */
#define FLEXTOE_NTF_SLOTS 4096u /* slots of a notification ring; power of two */

/* Mark of slot `position` (a running count) of a ring of `slots` slots; never 0, which is a fresh ring's. */
static inline uint8_t flextoe_mark(uint32_t position, uint32_t slots)
{
	return (uint8_t)(1u + ((position / slots) & 1u));
}

/*
 * A connection's name at the boundary: index in the engine's table in the low 22 bits, generation above.
 * The generation changes with every reuse of the index.
 */
#define FLEXTOE_CONN_INDEX_BITS 22u
#define FLEXTOE_CONN_NONE	0xffffffffu
static inline uint32_t flextoe_conn_index(uint32_t conn)
{
	return conn & ((1u << FLEXTOE_CONN_INDEX_BITS) - 1u);
}

/* ---- host control: application to engine ---- */

enum flextoe_hc_type {
	FLEXTOE_HC_UPDATE = 1, /* a connection's positions and flags (struct flextoe_hc_update) */
	FLEXTOE_HC_BIND = 2,   /* reserve a local address and port (struct flextoe_hc_endpoint) */
	FLEXTOE_HC_LISTEN = 3, /* listen on a bound endpoint, or change its backlog */
	FLEXTOE_HC_CONNECT =
		4, /* open a connection, from a bound endpoint or with a port of the engine's choice */
	FLEXTOE_HC_UNBIND = 5, /* give an endpoint up: the last one who does ends it, and what nobody has
				  accepted is reset. Endpoint 0: every listener that was joined over this
				  context */
	FLEXTOE_HC_OPTIONS =
		6,	     /* a socket's options as they are now (struct flextoe_hc_options); no answer */
	FLEXTOE_HC_JOIN = 7, /* accept from a listener that another process has (struct flextoe_hc_join) */
	FLEXTOE_HC_WANT = 8, /* how many connections of a listener may be handed over (struct
				flextoe_hc_want);   no answer */
};

/* Flags of an update. */
#define FLEXTOE_HC_FIN 0x0001u /* no more bytes after tx_head: send FIN (shutdown for writing) */
#define FLEXTOE_HC_CLOSE                                                                                     \
	0x0002u			 /* the application is done with the connection: implies FIN; data that      \
				    comes, or came and was not read, is answered with RST (RFC 2525 2.17);   \
				    no notification follows */
#define FLEXTOE_HC_ABORT 0x0004u /* reset the connection now; no notification follows */
#define FLEXTOE_HC_NOTIFY_HERE                                                                               \
	0x0008u /* from now on notify on this context; the full state is sent there at once */
#define FLEXTOE_HC_ACCEPTED                                                                                  \
	0x0010u /* accept() returned this connection: one place less in use in the backlog */
#define FLEXTOE_HC_NAGLE   0x0020u /* Nagle on (RFC 9293 3.7.4); with neither flag: as it was */
#define FLEXTOE_HC_NODELAY 0x0040u /* Nagle off */
#define FLEXTOE_HC_MORE                                                                                      \
	0x0080u /* more bytes will follow: hold back a last segment that is not full, for 200 ms at most */
#define FLEXTOE_HC_PUSH	     0x0100u /* no more: send what was held back */
#define FLEXTOE_HC_QUICKACK  0x0200u /* ACK at once what is owed and the next segments */
#define FLEXTOE_HC_SLOWACK   0x0400u /* delay ACKs again */
#define FLEXTOE_HC_FLAGS_ALL 0x07ffu

struct flextoe_hc_update {
	uint32_t conn;
	uint32_t tx_head; /* end of the bytes written: at most tx_tail + the transmit buffer's size */
	uint32_t rx_tail; /* end of the bytes consumed: at most rx_head as last notified */
	uint16_t flags;	  /* FLEXTOE_HC_* */
	uint16_t reserved0;
	uint32_t tx_origin; /* of the transmit buffer; another one only with new bytes after all old ones were
			       acknowledged */
	uint32_t reserved1[2];
	uint16_t reserved2;
	uint8_t type;
	uint8_t mark;
};

/* BIND, LISTEN, CONNECT and UNBIND. Addresses and ports are in network byte order. */
struct flextoe_hc_endpoint {
	uint32_t cookie;   /* the application's name for it, echoed in the answer and in FLEXTOE_NTF_ACCEPT */
	uint32_t endpoint; /* LISTEN, UNBIND, CONNECT: what BIND returned; CONNECT: 0 for none */
	uint32_t local_addr;  /* BIND: 0 for any address of the engine */
	uint32_t remote_addr; /* CONNECT */
	uint16_t local_port;  /* BIND: 0 for a free one */
	uint16_t remote_port; /* CONNECT */
	uint16_t backlog;     /* LISTEN: connections that may wait for accept() */
	uint16_t flags;	      /* BIND: FLEXTOE_BIND_*, LISTEN: FLEXTOE_LISTEN_* */
	uint8_t rx_shift;     /* CONNECT, LISTEN: log2 of the receive buffer, 0 for the engine's default */
	uint8_t tx_shift;     /* the same of the transmit buffer */
	uint8_t reserved[4];
	uint8_t type;
	uint8_t mark;
};

/* Congestion control, by number at the boundary. */
enum flextoe_congestion {
	FLEXTOE_CONGESTION_DEFAULT = 0, /* the engine's setting */
	FLEXTOE_CONGESTION_RENO = 1,
	FLEXTOE_CONGESTION_CUBIC = 2,
	FLEXTOE_CONGESTION_DCTCP = 3,
	FLEXTOE_CONGESTIONS = 4, /* their number */
};

#define FLEXTOE_BIND_REUSEADDR 0x0001u
#define FLEXTOE_BIND_REUSEPORT 0x0002u
#define FLEXTOE_LISTEN_WANTED  0x0001u /* connections come as WANT asks for them; else: all, at once */

/*
 * A listener may have several members, of one or more applications: each gets connections as it asks for
 * them, and those nobody has asked for wait in the engine. Whoever shows the token that LISTEN's answer has
 * told may join. A listener lives as long as it has a member or a holder (FLEXTOE_MSG_HOLD).
 */
struct flextoe_hc_join {
	uint32_t cookie; /* as in struct flextoe_hc_endpoint */
	uint32_t endpoint;
	uint32_t token[2];
	uint32_t reserved[3];
	uint16_t reserved2;
	uint8_t type;
	uint8_t mark;
};

struct flextoe_hc_want {
	uint32_t endpoint;
	uint32_t limit; /* connections to be handed to this member since it joined, modulo 2^32; of several
			   members each has at most one that it has not accepted, whatever it asks for */
	uint32_t reserved[5];
	uint16_t reserved2;
	uint8_t type;
	uint8_t mark;
};

/* What the options are for; connections that a listener accepts begin with the listener's. */
enum flextoe_options_for {
	FLEXTOE_OPTIONS_CONN = 1,     /* the connection `target` (its handle) */
	FLEXTOE_OPTIONS_ENDPOINT = 2, /* the endpoint `target`, and what it will accept */
	FLEXTOE_OPTIONS_CONNECT = 3,  /* the next CONNECT over this context */
};

/* Options that belong to the engine, all of them each time. One out of range: none is taken, and counted. */
struct flextoe_hc_options {
	uint32_t target;
	uint32_t user_timeout_ms; /* RFC 5482; 0: none */
	uint16_t keep_idle_s;	  /* keepalive: 1 to 32767; 0: off */
	uint16_t keep_interval_s; /* 1 to 32767 */
	int16_t linger2_s;	  /* FIN-WAIT-2 of a closed connection: 1 to 120; 0: 60; -1: no wait */
	uint16_t maxseg;	  /* bytes of a segment in both directions: 88 to 32767; 0: as the MTU */
	uint16_t defer_accept_s;  /* endpoint: how long accept() waits for a first byte; 0: not at all */
	uint8_t keep_count;	  /* 1 to 127 probes without answer end the connection */
	uint8_t syn_retries;	  /* CONNECT: 1 to 127; 0: the engine's default */
	uint8_t tos;		  /* DSCP; the ECN bits are the engine's */
	uint8_t ttl;		  /* 0: 64 */
	uint8_t congestion;	  /* enum flextoe_congestion */
	uint8_t applies_to;	  /* enum flextoe_options_for */
	uint8_t reserved[6];
	uint8_t type;
	uint8_t mark;
};

struct flextoe_hc {
	union {
		struct flextoe_hc_update update;
		struct flextoe_hc_endpoint endpoint;
		struct flextoe_hc_options options;
		struct flextoe_hc_join join;
		struct flextoe_hc_want want;
		struct {
			uint8_t body[30];
			uint8_t type;
			uint8_t mark;
		};
	};
};

/* ---- notifications: engine to application ---- */

enum flextoe_ntf_type {
	FLEXTOE_NTF_UPDATE = 1,	 /* a connection's positions and flags (struct flextoe_ntf_update) */
	FLEXTOE_NTF_RESULT = 2,	 /* answer to BIND, LISTEN, UNBIND, JOIN, and to a CONNECT that failed */
	FLEXTOE_NTF_ACCEPT = 3,	 /* a listener's handshake has completed (struct flextoe_ntf_opened) */
	FLEXTOE_NTF_CONNECT = 4, /* the application's CONNECT has completed (struct flextoe_ntf_opened) */
};

#define FLEXTOE_NTF_FIN	   0x0001u /* the peer has sent FIN: the stream ends at rx_head */
#define FLEXTOE_NTF_ERROR  0x0002u /* the connection is broken: `error` says how; nothing more follows */
#define FLEXTOE_NTF_CLOSED 0x0004u /* both directions have ended and all is acknowledged */

struct flextoe_ntf_update {
	uint32_t conn;
	uint32_t rx_head;   /* end of the bytes in the receive buffer that may be read */
	uint32_t tx_tail;   /* end of the bytes acknowledged: space before it may be written again */
	uint16_t flags;	    /* FLEXTOE_NTF_*; they stay set once set */
	uint16_t error;	    /* errno value with FLEXTOE_NTF_ERROR: ECONNRESET, ETIMEDOUT, EHOSTUNREACH, ... */
	uint32_t rx_origin; /* of the receive buffer; another one only with new bytes after all old ones were
			       consumed */
	uint32_t reserved1[2];
	uint16_t reserved2;
	uint8_t type;
	uint8_t mark;
};

struct flextoe_ntf_result {
	uint32_t cookie;
	uint32_t endpoint;   /* BIND: the endpoint's name, never 0 */
	uint32_t local_addr; /* BIND, JOIN: network byte order */
	uint16_t local_port;
	uint16_t error;	   /* 0 or errno value */
	uint32_t token[2]; /* LISTEN: what JOIN and HOLD have to show */
	uint32_t reserved1;
	uint8_t request; /* the FLEXTOE_HC_* type that is answered */
	uint8_t reserved2;
	uint8_t type;
	uint8_t mark;
};

/* Buffers are given in units of 4 KiB from the region's start; their sizes are powers of two. */
struct flextoe_ntf_opened {
	uint32_t cookie; /* of the listener (ACCEPT) or of the CONNECT */
	uint32_t conn;
	uint32_t local_addr;
	uint32_t remote_addr;
	uint16_t local_port;
	uint16_t remote_port;
	uint32_t rx_page;
	uint32_t tx_page;
	uint8_t rx_shift;
	uint8_t tx_shift;
	uint8_t type;
	uint8_t mark;
};

struct flextoe_ntf {
	union {
		struct flextoe_ntf_update update;
		struct flextoe_ntf_result result;
		struct flextoe_ntf_opened opened;
		struct {
			uint8_t body[30];
			uint8_t type;
			uint8_t mark;
		};
	};
};

/*
 * One-way words of a context. `hc_consumed` and `ntf_consumed` are the consumers' running counts. A side that
 * is about to sleep sets its asleep word, orders that before a last look at its ring, and then sleeps on its
 * eventfd; the other side, after it has produced, looks at the word (ordered after the marks) and writes the
 * eventfd when it is set. The sleeper clears its own word when it is awake. The application's word is 0 or
 * 1 + the core it went to sleep on; the engine's is 0 or a number that is another one for every sleep, so
 * that a doorbell is rung once a sleep.
 *
 * Two that share a core cannot run at the same time, so waking the other early only costs: on the engine's
 * own core (engine_cpu) an application rings the doorbell no earlier than it goes to sleep itself, and the
 * engine wakes applications when it has nothing left to do. The engine looks again after a millisecond when
 * it sleeps while an application is awake, so nothing is lost when that one computes for long. When none is,
 * or looking was in vain for a while, it says that it will not look (FLEXTOE_ENGINE_DEEP in its word), and
 * then looks a last time: what is posted in such a sleep is rung for at once.
 */
#define FLEXTOE_ENGINE_DEEP 0x80000000u
struct flextoe_words {
	/* written by the application */
	uint32_t ntf_consumed;
	uint32_t app_asleep;
	uint32_t reserved0[14];
	/* written by the engine */
	uint32_t hc_consumed;
	uint32_t engine_asleep;
	uint32_t context_dead; /* 1: the engine has given this context up, the log says why */
	uint32_t engine_cpu;   /* 1 + the core the engine runs on; 0: not told */
	uint32_t reserved1[12];
};

/* A context area, page aligned at `context_offset + n * sizeof(struct flextoe_context_area)`. */
struct flextoe_context_area {
	struct flextoe_words words;
	uint8_t pad[4096 - sizeof(struct flextoe_words)];
	struct flextoe_hc hc[FLEXTOE_HC_SLOTS];
	struct flextoe_ntf ntf[FLEXTOE_NTF_SLOTS];
};

#define FLEXTOE_CONTEXTS_MAX 64u /* contexts an application may have */

/* ---- control channel: a SOCK_SEQPACKET UNIX socket, one message a packet ---- */

enum flextoe_msg_type {
	FLEXTOE_MSG_HELLO = 1,	   /* struct flextoe_msg_hello -> WELCOME with the region's fd, or ERROR */
	FLEXTOE_MSG_WELCOME = 2,   /* struct flextoe_msg_welcome */
	FLEXTOE_MSG_CONTEXT = 3,   /* struct flextoe_msg_context (request: number 0) -> the same with the
				      wake eventfd (the application sleeps on it) and the doorbell eventfd
				      (the application writes it to wake the engine), in this order */
	FLEXTOE_MSG_ERROR = 4,	   /* struct flextoe_msg_error */
	FLEXTOE_MSG_CONN_INFO = 5, /* struct flextoe_msg_conn_info, request with conn set -> filled in */
	FLEXTOE_MSG_STATUS = 6,	   /* struct flextoe_msg_status: a report as text, for `flextoe stat` and the
				      like; the    next request only after its end */
	FLEXTOE_MSG_TEXT = 7, /* header and a piece of text; header.error 0: more follows, 1: the last one */
	FLEXTOE_MSG_HOLD = 8, /* struct flextoe_msg_hold, first on a channel of its own -> the same, or ERROR:
				 the listener lives at least until this channel hangs up */
	FLEXTOE_MSG_ENTER = 9, /* header, on a channel that holds a listener -> the same with a socket: a new
				  channel, for who may not connect any more; say HELLO or HOLD there */
};

#define FLEXTOE_MSG_MAX 32768u /* bytes in one message */

struct flextoe_msg_header {
	uint32_t version; /* FLEXTOE_ABI_VERSION */
	uint16_t type;
	uint16_t error;	 /* see the type */
	uint32_t length; /* of the whole message in bytes */
	uint32_t reserved;
};

struct flextoe_msg_hello {
	struct flextoe_msg_header header;
	uint32_t pid;
	char name[28]; /* of the program, ends with 0 */
};

#define FLEXTOE_ADDRESSES_MAX 16u
struct flextoe_msg_welcome {
	struct flextoe_msg_header header;
	uint64_t region_size;
	uint32_t context_offset; /* of the first context area */
	uint32_t contexts_max;
	uint32_t conns_max;	    /* connection indices are below this */
	uint32_t spin_us;	    /* how long a waiting thread should look before it sleeps */
	uint8_t rx_shift, tx_shift; /* default buffers */
	uint8_t address_count;
	uint8_t all_routes;  /* 1: connect() to any address the routes reach goes through the engine */
	uint32_t congestion; /* enum flextoe_congestion of connections that ask for none */
	struct {
		uint32_t addr;	     /* an address of the engine, network byte order */
		uint32_t prefix_len; /* of the link it is on: peers in it go through the engine */
	} address[FLEXTOE_ADDRESSES_MAX];
};

struct flextoe_msg_context {
	struct flextoe_msg_header header;
	uint32_t number; /* of the context, 0 .. contexts_max - 1 */
	uint32_t reserved;
};

struct flextoe_msg_hold {
	struct flextoe_msg_header header;
	uint32_t endpoint;
	uint32_t token[2];
	uint32_t reserved;
};

struct flextoe_msg_error {
	struct flextoe_msg_header header; /* header.error: errno value */
	char text[240];			  /* what happened and what to do, ends with 0 */
};

struct flextoe_msg_conn_info {
	struct flextoe_msg_header header;
	uint32_t conn;
	uint32_t state; /* as TCP_ESTABLISHED and so on in <netinet/tcp.h> */
	uint32_t srtt_us, rttvar_us, rto_us;
	uint32_t cwnd_bytes, ssthresh_bytes, snd_wnd_bytes, rcv_wnd_bytes;
	uint32_t mss, unacked_bytes;
	uint32_t retransmits;
	uint32_t congestion; /* enum flextoe_congestion */
	uint32_t ecn;	     /* 1: negotiated */
	uint64_t bytes_received, bytes_acked;
};

enum flextoe_status_what {
	FLEXTOE_STATUS_STAT = 1, /* all counters, for people */
	FLEXTOE_STATUS_STAT_JSON = 2,
	FLEXTOE_STATUS_PROMETHEUS = 3,
	FLEXTOE_STATUS_SS = 4, /* connections, for people */
	FLEXTOE_STATUS_SS_JSON = 5,
};

struct flextoe_msg_status {
	struct flextoe_msg_header header;
	uint32_t what; /* enum flextoe_status_what */
	uint32_t reserved;
};

#ifdef __cplusplus
}
#else
_Static_assert(sizeof(struct flextoe_hc_update) == 32, "host-control descriptors are 32 bytes");
_Static_assert(sizeof(struct flextoe_hc_endpoint) == 32, "host-control descriptors are 32 bytes");
_Static_assert(sizeof(struct flextoe_hc_options) == 32, "host-control descriptors are 32 bytes");
_Static_assert(sizeof(struct flextoe_hc_join) == 32, "host-control descriptors are 32 bytes");
_Static_assert(sizeof(struct flextoe_hc_want) == 32, "host-control descriptors are 32 bytes");
_Static_assert(sizeof(struct flextoe_hc) == 32, "host-control descriptors are 32 bytes");
_Static_assert(sizeof(struct flextoe_ntf_update) == 32, "notifications are 32 bytes");
_Static_assert(sizeof(struct flextoe_ntf_result) == 32, "notifications are 32 bytes");
_Static_assert(sizeof(struct flextoe_ntf_opened) == 32, "notifications are 32 bytes");
_Static_assert(sizeof(struct flextoe_ntf) == 32, "notifications are 32 bytes");
_Static_assert(sizeof(struct flextoe_words) == 128, "two cache lines, one a writer");
_Static_assert(sizeof(struct flextoe_context_area) % 4096 == 0, "context areas are whole pages");
#endif
#endif
