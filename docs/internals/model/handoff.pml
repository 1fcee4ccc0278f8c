/*
 * The handoff between one broker and two backends, at the granularity of the kernel.
 *
 * One atomic step is one thing that the kernel does indivisibly, with what its process does in its own memory
 * around it. Between two steps any other process may run for any length of time, or be killed, so "stuck" needs no
 * state of its own.
 *
 *     broker   service(), link(b)   packages/broker/src/worker/service, backend
 *     backend  backend(b)           packages/backend-sdk/src/broker-session.ts, token-ledger.ts
 *     rest     faults()             SIGKILL of each process, registering again
 *
 * Rules are removed with -DNO_..., sizes are set with -DNC=2 and so on; check.mjs knows the combinations.
 * The assertions name their property in a comment; check.mjs knows them by their text.
 */

#define NB 2 /* backends */
#ifndef NC
#define NC 2 /* client connections: 1 or 2 */
#endif
#ifndef SLOTS
#define SLOTS 2 /* offers of one backend that any process still remembers: 1, 2 or 3. The next waits (WouldBlock). */
#endif
#ifndef MAXSTUCK
#define MAXSTUCK 1
#endif
#ifndef REJOIN
#define REJOIN 0 /* times that each backend registers again after its registration has ended */
#endif

mtype = { OFFER, REVOKE, ACK, NACK };

/* ---- Kernel state. A queue outlives its writer, and is gone when no process can read it. ---- */

/* A lane message is a token and a descriptor. A token is never used twice, and a slot is not reused while its
 * number is on a queue or in a table anywhere, so the slot's number is the token (and the sequence). */
chan lane[NB] = [SLOTS] of { byte };
chan down[NB] = [2 * SLOTS] of { mtype, byte }; /* control: OFFER, REVOKE */
chan up[NB] = [SLOTS] of { mtype, byte };       /* control: ACK, NACK */
bit brokerEnd[NB] = 1;  /* the broker's end of control is open */
bit backendEnd[NB] = 1; /* the backend's end of control is open */
bit laneEnds[NB] = 1;   /* the broker's send end, and its duplicate of the receive end */

/* ---- The broker's memory. ---- */

bit brokerUp = 1;
bit busy; /* single-threaded: while one link is in the middle of a step, the others wait */

#define HERE         0 /* accepted, held, or taken back: owned by the broker */
#define OUT          1 /* there is an open offer */
#define HANDED       2
#define RELINQUISHED 3
#define REJECTED     4
#define ORPHANED     5 /* the broker died first */
byte conn[NC];

bit ledger[NB * SLOTS];     /* the offer is open */
byte offered[NB * SLOTS];   /* the connection it is for */

/* ---- The backends' memory. ---- */

#define OPEN     0
#define SETTLING 1 /* the broker's end of control is known to be closed */
#define CLOSED   2
#define DEAD     3
byte session[NB];

#define NONE     0
#define WAITING  1 /* OFFER read, no descriptor yet */
#define PARKED   2 /* descriptor taken, no OFFER yet */
#define VERIFIED 3 /* both, with equal tokens; its ACK is not known to be in the kernel */
#define ACKED    4 /* its ACK is in the kernel */
#define OWING    5 /* NO_ACK_BEFORE_TOUCH: touched, its ACK still to be written */
#define LEAVING  6 /* NO_NACK_AFTER_CLOSE: NACK written, about to write to the client */
byte token[NB * SLOTS];

/* ---- The process that has read or written the client's socket. ---- */

#define UNTOUCHED 0
#define BROKER 9 /* backends are 1 and 2 */
byte owner[NC];

bit calm; /* no more faults, so that a final state can be reached with processes alive */
#if REJOIN > 0
byte rejoined[NB];
#endif

#define AT(b, i) ((b) * SLOTS + (i))
#define IDLE (brokerUp && !busy)
/* A closed session holds nothing and sends nothing; whether its process is alive makes no difference. */
#define LIVES(b) (session[b] == OPEN || session[b] == SETTLING)

#define UNUSED(b, i) \
  (!ledger[AT(b, i)] && token[AT(b, i)] == NONE && !(lane[b]??[eval(i)]) && \
   !(down[b]??[OFFER, eval(i)]) && !(down[b]??[REVOKE, eval(i)]) && \
   !(up[b]??[ACK, eval(i)]) && !(up[b]??[NACK, eval(i)]))

/* Each slot, combined with each connection. */
#if SLOTS == 1
#define ANY(P, b) (P(b, 0))
#define CHOOSE(P, b, i) if :: P(b, 0) -> i = 0 fi
#define EACH(S, b) S(b, 0)
#elif SLOTS == 2
#define ANY(P, b) (P(b, 0) || P(b, 1))
#define CHOOSE(P, b, i) if :: P(b, 0) -> i = 0 :: P(b, 1) -> i = 1 fi
#define EACH(S, b) S(b, 0); S(b, 1)
#else
#define ANY(P, b) (P(b, 0) || P(b, 1) || P(b, 2))
#define CHOOSE(P, b, i) if :: P(b, 0) -> i = 0 :: P(b, 1) -> i = 1 :: P(b, 2) -> i = 2 fi
#define EACH(S, b) S(b, 0); S(b, 1); S(b, 2)
#endif

#define IS_OPEN(b, i)     (ledger[AT(b, i)])
#define IS_WAITING(b, i)  (token[AT(b, i)] == WAITING)
#define IS_VERIFIED(b, i) (token[AT(b, i)] == VERIFIED)
#ifdef NO_TOKEN_MATCH
#define IS_HELD(b, i)     (token[AT(b, i)] == VERIFIED)
#else
#define IS_HELD(b, i)     (token[AT(b, i)] == VERIFIED || token[AT(b, i)] == PARKED)
#endif
#define IS_ACKED(b, i)    (token[AT(b, i)] == ACKED)
#define IS_OWING(b, i)    (token[AT(b, i)] == OWING)
#define IS_LEAVING(b, i)  (token[AT(b, i)] == LEAVING)

#if SLOTS == 1
#define OPEN_COUNT(b) (ledger[AT(b, 0)])
#elif SLOTS == 2
#define OPEN_COUNT(b) (ledger[AT(b, 0)] + ledger[AT(b, 1)])
#else
#define OPEN_COUNT(b) (ledger[AT(b, 0)] + ledger[AT(b, 1)] + ledger[AT(b, 2)])
#endif

/* ---- Properties ---- */

/* One owner, ever: only one process has read or written a client's socket. */
inline touch(c, who) {
  assert(owner[c] == UNTOUCHED); /* two owners */
  owner[c] = who
}

/* A connection ends once. */
inline settle(c, outcome) {
  if
  :: outcome == HANDED -> printf("broker counts client %d as handed off\n", c)
  :: outcome == RELINQUISHED -> printf("broker relinquishes client %d\n", c)
  :: outcome == REJECTED -> printf("broker rejects client %d, with an answer of its own\n", c)
  fi;
  assert(conn[c] == HERE || conn[c] == OUT); /* two outcomes */
  conn[c] = outcome
}

/* A returned connection was never touched; with OWNERS_ONLY the second touch must happen before an assertion fails. */
inline takeBack(c) {
  printf("broker has client %d again\n", c);
#ifndef OWNERS_ONLY
  assert(owner[c] == UNTOUCHED); /* taken back after it was touched */
#endif
  assert(conn[c] == OUT); /* taken back twice */
  conn[c] = HERE
}

/* The backend may use its copy: the broker neither has the connection nor has given it to another backend. */
inline touchByBackend(c, b, i) {
  printf("backend %d reads and writes client %d\n", b, c);
#ifndef OWNERS_ONLY
  assert(!brokerUp || conn[c] == RELINQUISHED || conn[c] == HANDED || (conn[c] == OUT && ledger[AT(b, i)]));
#endif
  touch(c, b + 1)
}

/* The descriptor and the OFFER of one adoption belong to the same client. */
#ifdef NO_TOKEN_MATCH
/* Pairs by order alone. The descriptor's own slot is recorded separately from that of the OFFER it is paired with. */
chan waitingOrder[NB] = [SLOTS] of { byte };
chan parkedOrder[NB] = [SLOTS] of { byte };
byte holds[NB * SLOTS];
#define CLIENT(b, i) holds[AT(b, i)]
inline checkPair(b, i) {
  assert(holds[AT(b, i)] == offered[AT(b, i)]) /* another client's offer */
}
#else
#define CLIENT(b, i) offered[AT(b, i)]
#define checkPair(b, i) skip
#endif

/* ---- Ends of processes and connections, as seen by the kernel. ---- */

inline drain1(q) {
  do
  :: nempty(q) -> q?_
  :: empty(q) -> break
  od
}

inline drain2(q) {
  do
  :: nempty(q) -> q?_, _
  :: empty(q) -> break
  od
}

#define FORGET(b, i) token[AT(b, i)] = NONE
#define DROP_UNACKED(b, i) token[AT(b, i)] = (token[AT(b, i)] == ACKED -> ACKED : NONE)
#define DROP_UNPAIRED(b, i) token[AT(b, i)] = (token[AT(b, i)] == PARKED -> NONE : token[AT(b, i)])
#define STRIKE(b, i) ledger[AT(b, i)] = 0

inline forgetOrder(b) {
#ifdef NO_TOKEN_MATCH
  drain1(waitingOrder[b]);
  drain1(parkedOrder[b])
#else
  skip
#endif
}

/* The backend can no longer read. What it wrote stays; its lane stays too while the broker's duplicate is open. */
inline backendCloses(b) {
  backendEnd[b] = 0;
  drain2(down[b]);
  if
  :: !laneEnds[b] -> drain1(lane[b])
  :: else
  fi
}

inline brokerClosesLane(b) {
  laneEnds[b] = 0;
  if
  :: session[b] == DEAD || session[b] == CLOSED -> drain1(lane[b])
  :: else
  fi
}

inline brokerClosesControl(b) {
  if
  :: brokerUp -> printf("broker closes control of backend %d\n", b)
  :: else
  fi;
  brokerEnd[b] = 0;
  drain2(up[b])
}

/* ---- Broker ---- */

#ifdef LIVENESS
/* The broker's fairness, which safety does not need: no backend is tried twice in a round, and one that missed a deadline is
 * not chosen until it has answered. With GOOD, backend 0 can serve: it never refuses, leaves or dies, and misses at most
 * LATE deadlines. Backend 1 may do anything, or nothing, indefinitely. */
#define LATE 3
byte late; /* deadlines that backend 0 has missed, with GOOD */
bit tried[NB];
bit unresponsive[NB];
bit expired; /* holdTimeout, which runs from accept */
#ifdef NO_ASK_EACH_ONCE
#define READY(b) (brokerEnd[b] && !unresponsive[b] && ANY(UNUSED, b))
#else
#define READY(b) (brokerEnd[b] && !unresponsive[b] && ANY(UNUSED, b) && !tried[b])
#endif
#define MAY_OFFER(b) (READY(b) && !HOLD_IS_OVER)
#define HOLD_IS_OVER (expired && !tried[0] && !tried[1])
#ifdef GOOD
#define WELL(b) ((b) == 0)
#else
#define WELL(b) 0
#endif
#define MAY_BE_LATE(b) (!WELL(b) || late < LATE)
#else
#define MAY_OFFER(b) brokerEnd[b]
#define WELL(b) 0
#define MAY_BE_LATE(b) 1
#endif

#if NC == 1
#define ANY_IS_HERE (conn[0] == HERE)
#define CHOOSE_CONNECTION(c) c = 0
#else
#define ANY_IS_HERE (conn[0] == HERE || conn[1] == HERE)
#define CHOOSE_CONNECTION(c) if :: conn[0] == HERE -> c = 0 :: conn[1] == HERE -> c = 1 fi
#endif

/* A slot that no process remembers equals a new one. This only reduces the number of states. */
#if NC > 1
#define TIDY(b, i) offered[AT(b, i)] = (UNUSED(b, i) -> 0 : offered[AT(b, i)])
#define tidy(b) EACH(TIDY, b)
#else
#define tidy(b) skip
#endif

inline takeBackOffer(b, i) {
  ledger[AT(b, i)] = 0;
  takeBack(offered[AT(b, i)])
}

#define RETURN(b, i) \
  if :: ledger[AT(b, i)] -> takeBackOffer(b, i) :: else fi
#define GIVE_UP(b, i) \
  if :: ledger[AT(b, i)] -> ledger[AT(b, i)] = 0; settle(offered[AT(b, i)], RELINQUISHED) :: else fi

#ifdef NO_REROUTE_ONLY_ON_PROOF
#define IS_DUE(b) ANY(IS_OPEN, b)
#else
/* No action is needed when the lane is empty and the bound is kept. */
#define IS_DUE(b) (nempty(lane[b]) || OPEN_COUNT(b) > MAXSTUCK)
#endif

#ifdef NO_READ_CONTROL_TO_END
#define IS_READ_TO_END(b) 1 /* closing the end discards what is unread */
#else
#define IS_READ_TO_END(b) empty(up[b])
#endif

/* Reading back takes one message, the oldest; either the broker gets it or the backend. */
inline readHeadBack(b) {
  if
  :: nempty(lane[b]) ->
     lane[b]?i;
     printf("broker reads slot %d back from the lane of backend %d\n", i, b);
#ifndef OWNERS_ONLY
     assert(ledger[AT(b, i)]); /* settled while its message was on the lane */
#endif
     RETURN(b, i);
     tidy(b);
     i = 0
  :: empty(lane[b])
  fi
}

inline revokeHead(b) {
  if
  :: nempty(lane[b]) ->
     lane[b]?i;
     printf("broker reads slot %d back from the lane of backend %d\n", i, b);
#ifndef OWNERS_ONLY
     assert(ledger[AT(b, i)]); /* settled while its message was on the lane */
#endif
     RETURN(b, i);
     if
     :: backendEnd[b] -> down[b]!REVOKE, i
     :: else
     fi;
     tidy(b);
     i = 0
  :: empty(lane[b])
  fi
}

/* The lane was read until it was empty. Only this broker writes to it, so offers that are still open were taken. */
inline revoked(b) {
  if
  :: empty(lane[b]) ->
#ifdef NO_REROUTE_ONLY_ON_PROOF
     EACH(RETURN, b);
#endif
     if
     :: OPEN_COUNT(b) > MAXSTUCK ->
        CHOOSE(IS_OPEN, b, i);
        GIVE_UP(b, i);
        i = 0
#ifndef LIVENESS
     :: true /* over the bound, but not all of them are due */
#endif
     :: OPEN_COUNT(b) <= MAXSTUCK
     fi;
     tidy(b);
     busy = 0;
     goto end
  :: nempty(lane[b])
  fi
}

inline ended(b) {
  if
  :: empty(lane[b]) ->
#ifndef NO_RETURN_AT_END
     EACH(RETURN, b);
#else
     EACH(STRIKE, b);
#endif
     brokerClosesLane(b);
     brokerClosesControl(b);
     tidy(b);
     busy = 0;
     goto end
  :: nempty(lane[b])
  fi
}

/* All open offers are given up, then both ends of the lane are closed; control is closed after that. */
inline letGo(b) {
  if
  :: empty(lane[b]) ->
#ifdef NO_BROKER_LETS_GO_FIRST
     EACH(RETURN, b);
#else
     EACH(GIVE_UP, b);
#endif
     brokerClosesLane(b);
     tidy(b);
     goto closing
  :: nempty(lane[b])
  fi
}

/* Two ways to break the closing rule: the order alone, or the decision as well. */
#if defined(NO_BROKER_LETS_GO_FIRST) || defined(BROKER_CLOSES_EARLY)
#define CLOSES_CONTROL_FIRST
#endif

/* One registered backend: `BackendLink` with its `OfferLedger` and `Lane`. */
proctype link(byte b) {
  byte i, c;
  mtype f;
  {
end:
    do
    /* Offer: the descriptor and its token on the lane, then the OFFER on control. The broker may die in between. */
    :: atomic {
         IDLE && ANY_IS_HERE && MAY_OFFER(b) && ANY(UNUSED, b) ->
         busy = 1;
         CHOOSE_CONNECTION(c);
         i = 0;
         do
         :: UNUSED(b, i) -> break
         :: else -> i++
         od;
         conn[c] = OUT;
         ledger[AT(b, i)] = 1;
         offered[AT(b, i)] = c;
         c = 0;
#ifdef LIVENESS
         tried[b] = 1;
#endif
         lane[b]!i;
         printf("broker puts client %d on the lane of backend %d, slot %d\n", offered[AT(b, i)], b, i)
       }
       atomic {
         printf("broker writes OFFER for slot %d to backend %d\n", i, b);
         if
         :: backendEnd[b] -> down[b]!OFFER, i
         :: else
         fi;
         i = 0;
         busy = 0
       }

    /* An answer. If its offer is settled already, the two crossed, and it is ignored. */
    :: atomic {
         IDLE && brokerEnd[b] && nempty(up[b]) ->
         up[b]?f, i;
         printf("broker reads %e for slot %d from backend %d\n", f, i, b);
         if
         :: ledger[AT(b, i)] && f == ACK ->
            ledger[AT(b, i)] = 0;
            settle(offered[AT(b, i)], HANDED)
         :: ledger[AT(b, i)] && f == NACK -> takeBackOffer(b, i)
#ifdef NO_LATE_ACK_IGNORED
         :: !ledger[AT(b, i)] && f == ACK -> settle(offered[AT(b, i)], HANDED)
#endif
         :: else
         fi;
         tidy(b);
         f = 0;
         i = 0
       }

    /* The ACK deadline. What is still on the lane moves on, and REVOKE is sent; what is no longer there was taken, and waits. */
#ifndef NO_ACK_DEADLINE
    :: atomic {
         IDLE && brokerEnd[b] && MAY_BE_LATE(b) && IS_DUE(b) ->
         printf("broker sees an ACK deadline of backend %d pass\n", b);
         busy = 1;
#ifdef LIVENESS
         unresponsive[b] = 1;
         late = late + WELL(b);
#endif
         revokeHead(b);
         revoked(b)
       }
       do
       :: atomic { revokeHead(b); revoked(b) }
       od
#endif

    /* Control has ended and is read to its end: an offer without an ACK there was never touched. */
    :: atomic {
         IDLE && brokerEnd[b] && !backendEnd[b] && IS_READ_TO_END(b) ->
         printf("broker sees the end of backend %d's control\n", b);
         busy = 1;
         readHeadBack(b);
         ended(b)
       }
       do
       :: atomic { readHeadBack(b); ended(b) }
       od

    /* The broker cuts the backend off: it violated the protocol, or the broker is shutting down. */
    :: atomic {
         IDLE && brokerEnd[b] && !calm && !WELL(b) ->
         printf("broker cuts backend %d off\n", b);
         busy = 1;
#ifdef CLOSES_CONTROL_FIRST
         brokerClosesControl(b)
#else
         readHeadBack(b);
         letGo(b)
#endif
       }
       do
       :: atomic { readHeadBack(b); letGo(b) }
       od;
closing:
       atomic {
         if
         :: brokerEnd[b] -> brokerClosesControl(b)
         :: else
         fi;
         busy = 0
       }
    od
  } unless {
    d_step { !brokerUp -> i = 0; c = 0; f = 0 }
  }
}

/* A client held until its timeout is rejected: the broker itself writes to the client. */
proctype service() {
end:
  do
#ifdef LIVENESS
  :: atomic {
       IDLE && conn[0] == HERE && HOLD_IS_OVER ->
       settle(0, REJECTED);
       touch(0, BROKER)
     }
  :: atomic { /* Every ready backend was tried: the client waits, and a new round begins. */
       IDLE && conn[0] == HERE && !READY(0) && !READY(1) && (tried[0] || tried[1]) ->
       tried[0] = 0;
       tried[1] = 0
     }
#else
#ifndef OWNERS_ONLY
  :: atomic { IDLE && conn[0] == HERE -> settle(0, REJECTED); touch(0, BROKER) }
#if NC > 1
  :: atomic { IDLE && conn[1] == HERE -> settle(1, REJECTED); touch(1, BROKER) }
#endif
#endif
  :: atomic { !brokerUp -> break }
#endif
  od
}

/* ---- Backend ---- */

/* An offer's two halves are matched. */
inline readOffer(b, i) {
#ifdef NO_TOKEN_MATCH
  if
  :: nempty(parkedOrder[b]) ->
     parkedOrder[b]?j;
     token[AT(b, i)] = VERIFIED;
     holds[AT(b, i)] = offered[AT(b, j)];
     if
     :: j != i -> token[AT(b, j)] = NONE
     :: else
     fi;
     j = 0
  :: empty(parkedOrder[b]) ->
     if
     :: token[AT(b, i)] == NONE -> token[AT(b, i)] = WAITING; waitingOrder[b]!i
     :: else
     fi
  fi
#else
  if
  :: token[AT(b, i)] == PARKED -> token[AT(b, i)] = VERIFIED
  :: token[AT(b, i)] == NONE -> token[AT(b, i)] = WAITING
  :: else /* PEEK_ALLOWED only: it came before */
  fi
#endif
}

inline readRevoke(b, i) {
  if
  :: token[AT(b, i)] == WAITING ->
#ifdef NO_TOKEN_MATCH
     waitingOrder[b]??eval(i);
#endif
     token[AT(b, i)] = NONE
  :: else
  fi
}

/* A message arrived on the lane; with `parks`, its OFFER can still come. */
inline arrive(b, i, parks) {
#ifdef NO_TOKEN_MATCH
  if
  :: nempty(waitingOrder[b]) ->
     waitingOrder[b]?j;
     token[AT(b, j)] = VERIFIED;
     holds[AT(b, j)] = offered[AT(b, i)];
     j = 0
  :: empty(waitingOrder[b]) && parks && token[AT(b, i)] == NONE ->
     token[AT(b, i)] = PARKED;
     holds[AT(b, i)] = offered[AT(b, i)];
     parkedOrder[b]!i
  :: empty(waitingOrder[b]) && !(parks && token[AT(b, i)] == NONE) /* closed untouched */
  fi
#else
  if
  :: token[AT(b, i)] == WAITING -> token[AT(b, i)] = VERIFIED
  :: token[AT(b, i)] == NONE && parks -> token[AT(b, i)] = PARKED
  :: else /* closed untouched */
  fi
#endif
}

inline forgetParked(b, i) {
#ifdef NO_TOKEN_MATCH
  if
  :: parkedOrder[b]??[eval(i)] -> parkedOrder[b]??eval(i)
  :: !(parkedOrder[b]??[eval(i)])
  fi
#else
  skip
#endif
}

#ifdef NO_LANE_EOF
#define LANE_AT_EOF(b) 1
#else
#define LANE_AT_EOF(b) (!laneEnds[b])
#endif

/* Adoption without an ACK: there is no broker left to receive it. */
#ifdef NO_BACKEND_LETS_GO_FIRST
#define ALONE(b) ((session[b] == SETTLING && LANE_AT_EOF(b)) || session[b] == CLOSED)
#else
#define ALONE(b) (session[b] == SETTLING && LANE_AT_EOF(b))
#endif

/* One process with the SDK's `BrokerSession` and `TokenLedger` in it. */
proctype backend(byte b) {
  byte i;
#ifdef NO_TOKEN_MATCH
  byte j;
#endif
  mtype f;
#if REJOIN > 0
again:
  skip;
#endif
  {
end:
    do
    :: atomic {
         session[b] == OPEN && nempty(down[b]) ->
         down[b]?f, i;
         printf("backend %d reads %e for slot %d\n", b, f, i);
         if
         :: f == OFFER -> readOffer(b, i)
         :: f == REVOKE -> readRevoke(b, i)
         fi;
         f = 0;
         tidy(b);
         i = 0
       }
    :: atomic {
         session[b] == OPEN && nempty(lane[b]) ->
         lane[b]?i;
         printf("backend %d takes slot %d from its lane\n", b, i);
         arrive(b, i, true);
         tidy(b);
         i = 0
       }
#ifdef PEEK_ALLOWED
    :: atomic {
         session[b] == OPEN && nempty(lane[b]) ->
         lane[b]?<i>;
         printf("backend %d peeks at slot %d on its lane\n", b, i);
         arrive(b, i, true);
         tidy(b);
         i = 0
       }
#endif

    /* The answer. The kernel accepts it only while the broker's end is open. */
#ifdef NO_ACK_BEFORE_TOUCH
    :: atomic {
         session[b] == OPEN && brokerEnd[b] && ANY(IS_VERIFIED, b) ->
         CHOOSE(IS_VERIFIED, b, i);
         checkPair(b, i);
         touchByBackend(CLIENT(b, i), b, i);
         token[AT(b, i)] = OWING;
         tidy(b);
         i = 0
       }
    :: atomic {
         ANY(IS_OWING, b) ->
         CHOOSE(IS_OWING, b, i);
         if
         :: session[b] == OPEN && brokerEnd[b] -> up[b]!ACK, i; printf("backend %d writes ACK for slot %d\n", b, i)
         :: else
         fi;
         token[AT(b, i)] = NONE;
         tidy(b);
         i = 0
       }
#else
    :: atomic {
         session[b] == OPEN && brokerEnd[b] && ANY(IS_VERIFIED, b) ->
         CHOOSE(IS_VERIFIED, b, i);
         up[b]!ACK, i;
         printf("backend %d writes ACK for slot %d\n", b, i);
         token[AT(b, i)] = ACKED;
         tidy(b);
         i = 0
       }
#endif
    :: atomic {
         ANY(IS_ACKED, b) ->
         CHOOSE(IS_ACKED, b, i);
         checkPair(b, i);
         touchByBackend(CLIENT(b, i), b, i);
         token[AT(b, i)] = NONE;
         tidy(b);
         i = 0
       }
#ifndef NO_TOKEN_MATCH /* which fails soon enough without this */
    /* An offer whose descriptor never came is forgotten long after the deadline. */
    :: atomic {
         session[b] == OPEN && !WELL(b) && ANY(IS_WAITING, b) ->
         CHOOSE(IS_WAITING, b, i);
         token[AT(b, i)] = NONE;
         tidy(b);
         i = 0
       }
#endif
    /* Refused (draining, too late, no OFFER within tokenTtl): the copy is closed, then NACK is sent. */
    :: atomic {
         session[b] == OPEN && brokerEnd[b] && !WELL(b) && ANY(IS_HELD, b) ->
         CHOOSE(IS_HELD, b, i);
         forgetParked(b, i);
         up[b]!NACK, i;
         printf("backend %d writes NACK for slot %d\n", b, i);
#ifdef NO_NACK_AFTER_CLOSE
         token[AT(b, i)] = LEAVING;
#else
         token[AT(b, i)] = NONE;
#endif
         tidy(b);
         i = 0
       }
#ifdef NO_NACK_AFTER_CLOSE
    :: atomic {
         ANY(IS_LEAVING, b) ->
         CHOOSE(IS_LEAVING, b, i);
         touchByBackend(CLIENT(b, i), b, i);
         token[AT(b, i)] = NONE;
         tidy(b);
         i = 0
       }
#endif

    /* The broker's end of control has closed, and everything it still held has been read. */
    :: atomic {
         session[b] == OPEN && !brokerEnd[b] && empty(down[b]) ->
         printf("backend %d sees the end of its control\n", b);
         session[b] = SETTLING;
         EACH(DROP_UNPAIRED, b)
       }
    :: atomic {
         session[b] == SETTLING && LANE_AT_EOF(b) && nempty(lane[b]) && ANY(IS_WAITING, b) ->
         lane[b]?i;
         printf("backend %d takes slot %d from its lane\n", b, i);
         arrive(b, i, false);
         tidy(b);
         i = 0
       }
#ifndef NO_LANE_EOF
    /* Control has ended and the lane has not: after a while the backend gives up, untouched. */
    :: atomic {
         session[b] == SETTLING && laneEnds[b] ->
         EACH(DROP_UNACKED, b);
         forgetOrder(b);
         session[b] = CLOSED;
         backendCloses(b);
         tidy(b)
       }
#endif
    :: atomic {
         ALONE(b) && ANY(IS_VERIFIED, b) ->
         CHOOSE(IS_VERIFIED, b, i);
         checkPair(b, i);
         touchByBackend(CLIENT(b, i), b, i);
         token[AT(b, i)] = NONE;
         tidy(b);
         i = 0
       }
    :: atomic {
         ALONE(b) && session[b] == SETTLING && !ANY(IS_VERIFIED, b) && (empty(lane[b]) || !ANY(IS_WAITING, b)) ->
         EACH(DROP_UNACKED, b);
         forgetOrder(b);
         session[b] = CLOSED;
         backendCloses(b);
         tidy(b)
       }

    /* The backend closes (drained, or at once): it first closes what it has not ACKed, untouched, and then control. */
    :: atomic {
         session[b] == OPEN && !calm && !WELL(b) ->
         printf("backend %d closes its control\n", b);
#ifdef NO_BACKEND_LETS_GO_FIRST
         EACH(DROP_UNPAIRED, b);
#else
         EACH(DROP_UNACKED, b);
#endif
         forgetOrder(b);
         session[b] = CLOSED;
         backendCloses(b);
         tidy(b)
       }
#ifdef LIVENESS
    /* Answers a heartbeat sent after the deadline it missed, having read everything before it. */
    :: atomic { session[b] == OPEN && unresponsive[b] && empty(down[b]) -> unresponsive[b] = 0 }
    /* Stuck indefinitely: fairness requires no more of it than this. */
    :: !WELL(b)
#endif
    od
  } unless {
    d_step {
      session[b] == DEAD ->
      i = 0;
#ifdef NO_TOKEN_MATCH
      j = 0;
#endif
      f = 0
    }
  }
#if REJOIN > 0
end2:
  session[b] == OPEN;
  goto again
#endif
}

/* ---- Faults ---- */

#define ORPHAN(c) conn[c] = (conn[c] == HERE || conn[c] == OUT -> ORPHANED : conn[c])

inline killBroker() {
  printf("broker is killed\n");
  brokerUp = 0;
  busy = 0;
  EACH(STRIKE, 0);
  EACH(STRIKE, 1);
  brokerClosesLane(0);
  brokerClosesLane(1);
  brokerClosesControl(0);
  brokerClosesControl(1);
  tidy(0);
  tidy(1);
  ORPHAN(0);
#if NC > 1
  ORPHAN(1)
#endif
}

inline killBackend(b) {
  printf("backend %d is killed\n", b);
  session[b] = DEAD;
  EACH(FORGET, b);
  forgetOrder(b);
  backendCloses(b);
  tidy(b)
}

/* Registers again: new control connection, new lane. The kernel has dropped the rest of the old ones. */
inline register(b) {
  printf("backend %d registers again\n", b);
  rejoined[b]++;
  session[b] = OPEN;
  brokerEnd[b] = 1;
  backendEnd[b] = 1;
  laneEnds[b] = 1
#ifdef LIVENESS
  ;
  unresponsive[b] = 0
#endif
}

#define IS_OVER(b) \
  (brokerUp && rejoined[b] < REJOIN && !brokerEnd[b] && (session[b] == DEAD || session[b] == CLOSED) && \
   !ANY(IS_ACKED, b) && !ANY(IS_VERIFIED, b) && !ANY(IS_OWING, b) && !ANY(IS_LEAVING, b))

proctype faults() {
end:
  do
#ifndef LIVENESS
  :: atomic { brokerUp && !calm -> killBroker() }
#endif
  :: atomic { LIVES(0) && !calm && !WELL(0) -> killBackend(0) }
  :: atomic { LIVES(1) && !calm -> killBackend(1) }
  :: atomic { !calm -> calm = 1 }
  od
}

#if REJOIN > 0
proctype returns() {
end:
  do
  :: atomic { IS_OVER(0) -> register(0) }
  :: atomic { IS_OVER(1) -> register(1) }
  od
}
#endif

#ifdef LIVENESS
/* Time passes even when nothing happens, so every run is infinite. */
bit tick;
proctype time() {
  do
  :: tick = 1 - tick
  od
}

#ifndef GOOD /* with GOOD, a backend that can serve does so in time */
proctype holdTimeout() {
  expired = 1
}
#endif
#endif

#if !defined(LIVENESS) && !defined(OWNERS_ONLY)
#define AT_REST(b, i) assert(!LIVES(b) || token[AT(b, i)] == NONE || token[AT(b, i)] == WAITING)

/* When no process can take a step: nothing was lost silently, and no backend keeps a descriptor. */
proctype rest() {
  atomic {
    timeout ->
    assert(!brokerUp || (conn[0] != HERE && conn[0] != OUT)); /* lost silently */
#if NC > 1
    assert(!brokerUp || (conn[1] != HERE && conn[1] != OUT)); /* lost silently */
#endif
    EACH(AT_REST, 0);
    EACH(AT_REST, 1)
  }
}
#endif

init {
  atomic {
#ifdef DOWN /* no backend is registered at first */
    killBackend(0);
    killBackend(1);
    brokerClosesLane(0);
    brokerClosesLane(1);
    brokerClosesControl(0);
    brokerClosesControl(1);
#endif
    run link(0);
    run link(1);
    run backend(0);
    run backend(1);
    run service();
#if REJOIN > 0
    run returns();
#endif
#ifdef LIVENESS
    run time();
#ifndef GOOD
    run holdTimeout();
#endif
#elif !defined(OWNERS_ONLY)
    run rest();
#endif
    run faults()
  }
}

#ifdef LIVENESS
#define TAKEN(b, i) (ledger[AT(b, i)] && !(lane[b]??[i]))
#define settled (conn[0] != HERE && conn[0] != OUT)
#define served (conn[0] == HANDED || conn[0] == RELINQUISHED)
#define taken0 ANY(TAKEN, 0)
#define taken1 ANY(TAKEN, 1)
#ifdef GOOD
/* One backend can serve: the client is served, unless the other one took it and never answers. */
ltl live { <> served || <> [] taken1 }
#else
#if MAXSTUCK == 0
/* No backend needs to be able to serve, and the bound is 0: every client's wait ends. */
ltl live { <> settled }
#else
ltl live { <> settled || <> [] taken0 || <> [] taken1 }
#endif
#endif
#endif
