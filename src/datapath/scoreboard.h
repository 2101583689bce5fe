/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is known of the bytes in flight of a connection in trouble: an ordered list of ranges without gaps
 * from snd_una on, each with what became of it. It is kept in an entry of a pool that a connection has while
 * it needs it. A plain data structure: what is to follow from it is recovery.c's business.
 *
 * Bytes that were sent once leave in the order of their numbers, so no times are kept for them: the moment at
 * which something sent later was seen to arrive ("overtaken") serves RACK (RFC 8985) as well as the time of
 * their transmission, since what overtook them had the same round trip behind it.
 */
#ifndef DATAPATH_SCOREBOARD_H
#define DATAPATH_SCOREBOARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BOARD_RANGES 100u

enum range_state {
	RANGE_FLIGHT = 0, /* sent, and nothing was heard of it */
	RANGE_OVERTAKEN,  /* what was sent later has arrived, first at us */
	RANGE_LOST,	  /* taken for lost: to be sent again */
	RANGE_RESENT,	  /* sent again at us, when snd_max was mark */
	RANGE_SACKED,	  /* the peer says that it has it (RFC 2018) */
};

#define RANGE_AGAIN	0x1u /* sent more than once: an ACK of it may be for either */
#define RANGE_WAS_AHEAD 0x2u /* was overtaken since it was sent last */

struct range {
	uint32_t start; /* sequence number; it ends where the next one starts, the last at board.end */
	uint32_t us;
	uint32_t mark;
	uint8_t state; /* enum range_state */
	uint8_t flags; /* RANGE_* */
	uint16_t reserved;
};

struct scoreboard {
	uint32_t una;  /* start of the first range */
	uint32_t end;  /* end of the last; from here to snd_max everything is RANGE_FLIGHT */
	uint32_t fack; /* end of the highest byte known to have arrived */
	uint8_t count;
	/* the rest is recovery.c's */
	uint8_t flags;		/* BOARD_* of recovery.c */
	uint8_t probe;		/* PROBE_* there */
	uint8_t frto;		/* step of RFC 5682, 0: not at work */
	uint32_t prr_delivered; /* RFC 6937 */
	uint32_t prr_out;
	uint32_t prr_flight; /* RecoverFS */
	uint32_t undo_cwnd;  /* as before the reduction that may prove wrong */
	uint32_t undo_ssthresh;
	uint32_t undo_start; /* what was sent again since lies behind this */
	uint32_t undo_end;   /* once this is acknowledged the question is settled */
	uint32_t undo_bytes; /* sent again since, and not reported as duplicates yet */
	uint32_t probe_end;  /* TLP.end_seq (RFC 8985 7.3) */
	uint32_t widened;    /* RACK.dsack_round: snd_max when the window was widened last */
	uint32_t reserved[2];
	struct range range[BOARD_RANGES];
};
_Static_assert(sizeof(struct scoreboard) == 64 + BOARD_RANGES * 16, "bounded, and without holes");

/* What an ACK said that was not known. */
struct board_news {
	uint32_t delivered;    /* bytes that arrived: acknowledged or SACKed now */
	uint32_t sacked;       /* of them, SACKed */
	uint32_t lost;	       /* bytes newly taken for lost */
	uint32_t resent_us;    /* with resent: when the latest of them was sent, */
	uint32_t resent_start; /* and its first byte */
	bool resent;	       /* something arrived that had been sent again */
	bool late;	       /* something arrived that was overtaken and not sent again: reordering */
	bool spared;	       /* something arrived that a timeout took for lost and nobody sent again */
};

void board_init(struct scoreboard *b, uint32_t una);
/* Bytes before una were acknowledged. */
void board_advance(struct scoreboard *b, uint32_t una, struct board_news *news);
/* The peer has [start, end), which must lie in [una, snd_max]. False: no room to note it, nothing changed. */
bool board_sack(struct scoreboard *b, uint32_t start, uint32_t end, struct board_news *news);
/* After the blocks of a segment: notes what they overtook. */
void board_overtake(struct scoreboard *b, uint32_t now_us, const struct board_news *news);
/*
 * Takes for lost what was overtaken at least wait_us ago. Returns whether something else is waited for, and
 * then in *wait_until_us until when at most.
 */
bool board_detect(struct scoreboard *b, uint32_t now_us, uint32_t wait_us, struct board_news *news,
	uint32_t *wait_until_us);
/* A timeout: everything up to snd_max that is not SACKed is lost; with forget, what is SACKed too. */
void board_lose(struct scoreboard *b, uint32_t snd_max, bool forget);
/* The losses were none: what waits to be sent again is in flight. */
void board_forgive(struct scoreboard *b);
/* The first lost range; false: there is none. */
bool board_lost(const struct scoreboard *b, uint32_t *start, uint32_t *end);
/* [start, end) was sent again. */
void board_resent(struct scoreboard *b, uint32_t start, uint32_t end, uint32_t now_us, uint32_t snd_max);
/* Bytes that are thought to be in the network (RFC 6675 4, "pipe"). */
uint32_t board_pipe(const struct scoreboard *b, uint32_t snd_max);
/* Bytes SACKed; *ranges: in how many pieces. */
uint32_t board_sacked(const struct scoreboard *b, unsigned *ranges);
/* Nothing is known but that bytes were sent. */
bool board_plain(const struct scoreboard *b);

#endif
