/*
 * Handing back: a connection leaves the process that serves it, and goes on in another one.
 *
 * Two backends, each of which can give and resume; one worker, or two with a reload between them; a master that starts the second
 * one; and clients that send a few bytes. One atomic step is one thing that the kernel does indivisibly, with what its process does
 * in its own memory around it; between two steps any process may be killed. How an offer's two halves are paired is explored in
 * handoff.pml: here OFFER stands for both, on one queue that the broker can read back.
 *
 *     worker   link(w, b)   packages/broker/src/worker/backend/hand-backs.ts, service, park
 *     backend  backend(b)   packages/backend-sdk/src/broker-session.ts, hand-back-ledger.ts
 *     rest     faults()     SIGKILL of each process, a reload, registering with the second worker
 *
 * Rules are removed with -DNO_..., sizes are set with -DNC=2 and so on; check.mjs knows the combinations.
 * The assertions name their property in a comment; check.mjs knows them by their text.
 */

#define NB 2 /* backends */
#ifndef NC
#define NC 1 /* clients: 1 or 2 */
#endif
#ifndef NW
#define NW 1 /* workers: 1, or 2 for a reload (of one client) */
#endif
#ifndef BYTES
#define BYTES 2 /* that each client sends */
#endif
#ifndef WINDOW
#define WINDOW 1 /* hand-backs of one backend that are neither settled nor given back */
#endif
#ifndef STRAYS
#define STRAYS 0 /* 1: a backend may put a descriptor on its lane that no HANDBACK names */
#endif
#ifndef DEATHS
#define DEATHS 9 /* processes that are killed, at most */
#endif

mtype = { OFFER, TAKEN, GIVEN_BACK, SETTLED, ACK, NACK, HANDBACK, RESUMES };

#define LINK(w, b) ((w) * NB + (b))
#define AT(w, c) ((w) * NC + (c))
#define HAS(b, c) ((b) * NC + (c))

/* ---- Kernel state ---- */

chan down[NW * NB] = [4 * NC] of { mtype, byte }; /* control and lane to the backend */
chan up[NW * NB] = [3 * NC + 1] of { mtype, byte }; /* control from the backend */
chan laneUp[NW * NB] = [1 + STRAYS] of { byte, bit }; /* lane from the backend: a descriptor, and whether a HANDBACK will name it */
#if NW > 1
chan pair = [NC] of { byte }; /* from the old worker to the new one; the master is not part of it */
#endif
bit brokerEnd[NW * NB]; /* the worker's ends of control and lane are open */
bit backendEnd[NW * NB];

byte arrived[NC]; /* bytes that the client has sent */
byte taken[NC];   /* of these, the ones read from the kernel's buffer */
bit flagged[NC];  /* O_NONBLOCK is off, or SO_LINGER is on: shared by all holders of the socket */

/* ---- Workers ---- */

bit workerUp[NW];
bit leaving[NW]; /* another worker has taken over */

#define NOWHERE 0
#define HERE    1 /* held, or parked */
#define OUT     2 /* offered to backend 0; 3: to backend 1 */
#define ASKED   4 /* from backend 0, TAKEN is not in the kernel; 5: from backend 1 */
#define LATE    6 /* NO_GIVE_BACK_AFTER_CLOSE: given back to backend 0, and not closed; 7: to backend 1 */
byte at[NW * NC];
bit resumes[NW * NB]; /* RESUMES named the schema */
#ifdef NO_TAKEN_BEFORE_OFFER
byte owed[NW * NB]; /* client + 1, TAKEN still to be written */
#endif

/* Travels with the connection from its hand-back on. */
bit fresh[NC];   /* never handed back */
bit replay[NC];  /* has state; otherwise it is between two requests */
byte prefix[NC]; /* number of the byte that was read and not consumed, 0 for none */
byte giver[NW * NC]; /* link + 1, until SETTLED: the worker's memory, where the rest travels */

/* ---- Backends ---- */

bit alive[NB];
#define NONE  0
#define MINE  1 /* this process reads and writes it */
#define TAKEN_UP 2 /* an offer from worker 0 without ACK; 3: from worker 1 */
#define LEFT  4 /* handed back to worker 0, the duplicate is kept; 5: to worker 1 */
byte has[NB * NC];
byte buffer[NB * NC]; /* number of the byte that was read and not consumed, 0 for none */
byte consumed[NC];    /* by the app, wherever it ran */
byte unsettled[NW * NB];
#if STRAYS > 0
bit strayed[NB];
#define HAS_STRAYED(b) strayed[b]
#else
#define HAS_STRAYED(b) 0
#endif
#ifdef NO_LET_GO_IN_ONE_STEP
byte chosen[NB]; /* client + 1: found idle, not let go yet */
#endif

/* ---- The rest ---- */

bit masterUp = 1;
bit started[NW];
bit registered[NW * NB];
bit calm; /* no more faults and hand-backs */
byte deaths;

/* The process whose death ends the connection: backend + 1, worker + 3. */
byte owner[NC];
bit over[NC]; /* it may have ended: by its owner, or with its owner's death */

#if NC == 1
#define ANYC(P, x) (P(x, 0))
#define CHOOSEC(P, x, c) if :: P(x, 0) -> c = 0 fi
#define EACHC(S, x) S(x, 0)
#else
#define ANYC(P, x) (P(x, 0) || P(x, 1))
#define CHOOSEC(P, x, c) if :: P(x, 0) -> c = 0 :: P(x, 1) -> c = 1 fi
#define EACHC(S, x) S(x, 0); S(x, 1)
#endif

inline drain(q) {
  do
  :: nempty(q) -> q?_, _
  :: empty(q) -> break
  od
}

/* ---- Properties ---- */

/* One owner at any moment: a backend begins to read and write, and no other one does. */
inline adopt(b, c) {
  printf("backend %d reads and writes client %d\n", b, c);
  assert(has[HAS(1 - b, c)] != MINE); /* two owners */
  has[HAS(b, c)] = MINE;
  buffer[HAS(b, c)] = prefix[c];
  prefix[c] = 0;
  replay[c] = 0
}

/* The broker writes to the client, or changes its socket. */
inline touchByBroker(c) {
  assert(has[HAS(0, c)] != MINE && has[HAS(1, c)] != MINE) /* two owners */
}

/* Every byte is consumed once, in order. */
inline consume(b, c) {
  assert(buffer[HAS(b, c)] == consumed[c] + 1); /* a byte is lost */
  consumed[c]++;
  buffer[HAS(b, c)] = 0
}

/* ---- Worker ---- */

#define AWAKE(c) (fresh[c] || replay[c] || arrived[c] > taken[c])
#define MAY_TAKE(w, b, c) (!replay[c] || (resumes[LINK(w, b)] && giver[AT(w, c)] != LINK(w, b) + 1))
#define CAN_OFFER(l, c) (at[AT(l / NB, c)] == HERE && AWAKE(c) && MAY_TAKE(l / NB, l % NB, c))
#define IS_ASKED(l, c) (at[AT(l / NB, c)] == ASKED + l % NB)
#define IS_OUT(l, c) (at[AT(l / NB, c)] == OUT + l % NB)
#define IS_LATE(l, c) (at[AT(l / NB, c)] == LATE + l % NB)
#define CAN_RESUME(w, b) (brokerEnd[LINK(w, b)] && resumes[LINK(w, b)])

inline tell(l, f, c) {
  if
  :: backendEnd[l] -> down[l]!f, c
  :: else
  fi
}

/* A connection with state has its outcome, or leaves this worker. */
inline settled(w, c) {
  if
  :: giver[AT(w, c)] != 0 && brokerEnd[giver[AT(w, c)] - 1] -> tell(giver[AT(w, c)] - 1, SETTLED, c)
  :: else
  fi;
  giver[AT(w, c)] = 0
}

/* TAKEN is in the kernel: the broker's. */
inline own(w, b, c) {
  printf("broker %d owns client %d\n", w, c);
  owner[c] = w + 3;
  at[AT(w, c)] = HERE;
#ifndef NO_RESET_FLAGS
  touchByBroker(c);
  flagged[c] = 0;
#endif
  giver[AT(w, c)] = LINK(w, b) + 1;
  if
  :: !replay[c] -> settled(w, c)
  :: else
  fi
}

#define CLOSE_ASKED(l, c) at[AT(l / NB, c)] = (IS_ASKED(l, c) || IS_LATE(l, c) -> NOWHERE : at[AT(l / NB, c)])
#define RETURN_OUT(l, c) at[AT(l / NB, c)] = (IS_OUT(l, c) -> HERE : at[AT(l / NB, c)])
#define RELINQUISH(l, c) \
  if \
  :: IS_OUT(l, c) && down[l]??[OFFER, eval(c)] -> at[AT(l / NB, c)] = HERE \
  :: IS_OUT(l, c) && !(down[l]??[OFFER, eval(c)]) -> at[AT(l / NB, c)] = NOWHERE; over[c] = 1; settled(l / NB, c) \
  :: else \
  fi

#define READ_BACK(l, c) \
  if \
  :: down[l]??[OFFER, eval(c)] -> down[l]??OFFER, eval(c) \
  :: else \
  fi

inline closeLink(l) {
  EACHC(CLOSE_ASKED, l);
#ifdef NO_TAKEN_BEFORE_OFFER
  owed[l] = 0;
#endif
  brokerEnd[l] = 0;
  resumes[l] = 0;
  drain(up[l]);
  drain(laneUp[l])
}

/* Offers are read back; those that were taken are given up; control is closed after that. TAKEN stays readable. */
inline cutOff(w, b) {
  printf("broker %d cuts backend %d off\n", w, b);
  EACHC(RELINQUISH, LINK(w, b));
#if NC > 1
  READ_BACK(LINK(w, b), 1);
#endif
  READ_BACK(LINK(w, b), 0);
  closeLink(LINK(w, b))
}

/* The backend broke the rules: what came is closed, and it is cut off. */
inline violation(w, b) {
  assert(HAS_STRAYED(b)); /* cut off without a fault */
  cutOff(w, b)
}

inline decide(w, b, c) {
  if
  :: !calm || (replay[c] && !CAN_RESUME(w, 1 - b)) ->
     printf("broker %d gives client %d back to backend %d\n", w, c, b);
     tell(LINK(w, b), GIVEN_BACK, c);
#ifdef NO_GIVE_BACK_AFTER_CLOSE
     at[AT(w, c)] = LATE + b
#endif
  :: !replay[c] || CAN_RESUME(w, 1 - b) ->
#ifdef NO_TAKEN_BEFORE_OFFER
     owed[LINK(w, b)] = c + 1;
     flagged[c] = 0;
     at[AT(w, c)] = HERE
#else
     at[AT(w, c)] = ASKED + b
#endif
  fi
}

/* HANDBACK rang: one message of the lane belongs to it. */
inline readHandBack(w, b, c) {
  if
  :: nempty(laneUp[LINK(w, b)]) ->
     laneUp[LINK(w, b)]?d, named;
#ifdef NO_HANDBACK_TOKEN_MATCH
     printf("broker %d pairs client %d on the lane of backend %d with HANDBACK for client %d\n", w, d, b, c);
     tell(LINK(w, b), TAKEN, c);
     owner[c] = w + 3;
     flagged[d] = 0;
     at[AT(w, d)] = HERE;
#else
     if
     :: d == c && named -> decide(w, b, c)
     :: else -> violation(w, b)
     fi;
#endif
     d = 0;
     named = 0
  :: empty(laneUp[LINK(w, b)]) -> violation(w, b)
  fi
}

/* One worker's side of one registration. */
proctype link(byte w, b) {
  byte c, d;
  bit named;
  mtype f;
  {
end:
    do
    :: atomic {
         workerUp[w] && !leaving[w] && brokerEnd[LINK(w, b)] && ANYC(CAN_OFFER, LINK(w, b)) ->
         CHOOSEC(CAN_OFFER, LINK(w, b), c);
         assert(!flagged[c]); /* flags of the giver */
         at[AT(w, c)] = OUT + b;
         printf("broker %d offers client %d to backend %d\n", w, c, b);
         tell(LINK(w, b), OFFER, c);
         c = 0
       }
    :: atomic {
         workerUp[w] && brokerEnd[LINK(w, b)] && nempty(up[LINK(w, b)]) ->
         up[LINK(w, b)]?f, c;
         printf("broker %d reads %e for client %d from backend %d\n", w, f, c, b);
         if
         :: f == ACK && IS_OUT(LINK(w, b), c) -> at[AT(w, c)] = NOWHERE; settled(w, c)
         :: f == NACK && IS_OUT(LINK(w, b), c) -> at[AT(w, c)] = HERE
         :: f == HANDBACK -> readHandBack(w, b, c)
         :: f == RESUMES -> resumes[LINK(w, b)] = 1
         :: else
         fi;
         f = 0;
         c = 0
       }
#ifdef NO_TAKEN_BEFORE_OFFER
    :: atomic {
         workerUp[w] && owed[LINK(w, b)] != 0 ->
         c = owed[LINK(w, b)] - 1;
         owed[LINK(w, b)] = 0;
         printf("broker %d writes TAKEN for client %d to backend %d\n", w, c, b);
         tell(LINK(w, b), TAKEN, c);
         owner[c] = w + 3;
         c = 0
       }
#endif
    /* TAKEN, which a full control takes late or never. */
    :: atomic {
         workerUp[w] && ANYC(IS_ASKED, LINK(w, b)) ->
         CHOOSEC(IS_ASKED, LINK(w, b), c);
         if
         :: backendEnd[LINK(w, b)] ->
            printf("broker %d writes TAKEN for client %d to backend %d\n", w, c, b);
            tell(LINK(w, b), TAKEN, c);
            own(w, b, c)
         :: else -> at[AT(w, c)] = NOWHERE
         fi;
         c = 0
       }
#ifdef NO_GIVE_BACK_AFTER_CLOSE
    :: atomic {
         workerUp[w] && ANYC(IS_LATE, LINK(w, b)) ->
         CHOOSEC(IS_LATE, LINK(w, b), c);
         printf("broker %d changes the socket of client %d and closes it\n", w, c);
         touchByBroker(c);
         at[AT(w, c)] = NOWHERE;
         c = 0
       }
#endif
    /* The ACK deadline: an offer that was not taken is read back. */
    :: atomic {
         workerUp[w] && brokerEnd[LINK(w, b)] && !calm && down[LINK(w, b)]??[OFFER, 0] ->
         down[LINK(w, b)]??OFFER, 0;
         at[AT(w, 0)] = HERE
       }
    /* Control has ended and is read to its end. */
    :: atomic {
         workerUp[w] && brokerEnd[LINK(w, b)] && !backendEnd[LINK(w, b)] && empty(up[LINK(w, b)]) ->
         printf("broker %d sees the end of backend %d's control\n", w, b);
         EACHC(RETURN_OUT, LINK(w, b));
         closeLink(LINK(w, b))
       }
    :: atomic { workerUp[w] && brokerEnd[LINK(w, b)] && !calm -> cutOff(w, b) }
    od
  } unless {
    d_step { started[w] && !workerUp[w] -> c = 0; d = 0; named = 0; f = 0 }
  }
}

/* Waiting ends: a client gets an answer of the broker's, one with state is closed without a byte, and so is an idle one. */
#define IS_HERE(w, c) (at[AT(w, c)] == HERE)
proctype service(byte w) {
  byte c;
  {
end:
    do
#ifndef OWNERS_ONLY /* the second owner to be found is a backend */
    :: atomic {
         workerUp[w] && !leaving[w] && ANYC(IS_HERE, w) ->
         CHOOSEC(IS_HERE, w, c);
         printf("broker %d ends client %d\n", w, c);
         touchByBroker(c);
         at[AT(w, c)] = NOWHERE;
         over[c] = 1;
         settled(w, c);
         c = 0
       }
#else
    :: !workerUp[w] -> break
#endif
#if NW > 1
    :: atomic {
         w == 0 && workerUp[0] && leaving[0] && ANYC(IS_HERE, 0) ->
         CHOOSEC(IS_HERE, 0, c);
         if
         :: workerUp[1] ->
            printf("broker 0 passes client %d to broker 1\n", c);
            owner[c] = 4;
            pair!c;
            at[AT(0, c)] = NOWHERE;
            settled(0, c)
         :: else -> leaving[0] = 0
         fi;
         c = 0
       }
    /* The same connection may still be there as an offer whose ACK is unread: two numbers in the code, and one here. So this waits. */
    :: atomic { w == 1 && workerUp[1] && at[AT(1, 0)] == NOWHERE && nempty(pair) -> pair?c; at[AT(1, c)] = HERE; c = 0 }
#endif
    od
  } unless {
    d_step { started[w] && !workerUp[w] -> c = 0 }
  }
}

/* ---- Backend ---- */

#define IS_MINE(b, c) (has[HAS(b, c)] == MINE)
#define CAN_READ(b, c) (IS_MINE(b, c) && buffer[HAS(b, c)] == 0 && arrived[c] > taken[c])
#define CAN_CONSUME(b, c) (IS_MINE(b, c) && buffer[HAS(b, c)] != 0)
#define CAN_ACK(l, c) (has[HAS(l % NB, c)] == TAKEN_UP + l / NB)
#define IS_LEFT(l, c) (has[HAS(l % NB, c)] == LEFT + l / NB)
#define CAN_LEAVE_IDLE(b, c) (IS_MINE(b, c) && buffer[HAS(b, c)] == 0)

/* At the end of control: what was handed back without TAKEN, and offers that no other process can get any more. */
#define GO_ON(l, c) \
  if \
  :: IS_LEFT(l, c) || CAN_ACK(l, c) -> adopt(l % NB, c); owner[c] = l % NB + 1 \
  :: else \
  fi
/* close(): the duplicates too, without an answer. */
#define DROP(l, c) \
  if \
  :: IS_LEFT(l, c) -> has[HAS(l % NB, c)] = NONE; over[c] = (owner[c] == l % NB + 1 -> 1 : over[c]) \
  :: CAN_ACK(l, c) -> has[HAS(l % NB, c)] = NONE \
  :: else \
  fi

inline closeSession(l) {
  backendEnd[l] = 0;
  unsettled[l] = 0;
  drain(down[l])
}

/* The connection leaves this process's reach in one step; its message on the lane, and then HANDBACK. */
inline letGo(b, c) {
  prefix[c] = buffer[HAS(b, c)];
#ifdef NO_PREFIX_GOES_ALONG
  prefix[c] = 0;
#endif
#ifdef NO_LET_GO_IN_ONE_STEP
  prefix[c] = (replay[c] -> prefix[c] : 0);
#endif
  buffer[HAS(b, c)] = 0;
  fresh[c] = 0;
  if
  :: flagged[c] = 1
  :: skip
  fi;
  printf("backend %d lets go of client %d\n", b, c)
}

inline readFrame(w, b) {
  down[LINK(w, b)]?f, c;
  printf("backend %d reads %e for client %d from broker %d\n", b, f, c, w);
  if
  :: f == OFFER ->
     has[HAS(b, c)] = TAKEN_UP + w
  :: f == TAKEN && IS_LEFT(LINK(w, b), c) -> has[HAS(b, c)] = NONE
  :: f == GIVEN_BACK ->
     if
     :: IS_LEFT(LINK(w, b), c) -> adopt(b, c)
     :: else
     fi;
     unsettled[LINK(w, b)]--
  :: f == SETTLED -> unsettled[LINK(w, b)]--
  :: else
  fi;
  f = 0;
  c = 0
}

#ifdef NO_ADOPT_AGAIN_ONLY_WITHOUT_TAKEN
#define IS_READ_TO_END(l) 1
#else
#define IS_READ_TO_END(l) empty(down[l])
#endif

#define CAN_HAND_BACK(w, b) \
  (!calm && backendEnd[LINK(w, b)] && brokerEnd[LINK(w, b)] && nfull(laneUp[LINK(w, b)]) && unsettled[LINK(w, b)] < WINDOW)

proctype session(byte w, b) {
  byte c;
  mtype f;
  {
end:
    do
    :: atomic { alive[b] && backendEnd[LINK(w, b)] && nempty(down[LINK(w, b)]) -> readFrame(w, b) }
    :: atomic {
         alive[b] && backendEnd[LINK(w, b)] && brokerEnd[LINK(w, b)] && ANYC(CAN_ACK, LINK(w, b)) ->
         CHOOSEC(CAN_ACK, LINK(w, b), c);
         if
         :: up[LINK(w, b)]!ACK, c;
            printf("backend %d writes ACK for client %d to broker %d\n", b, c, w);
            owner[c] = b + 1;
            adopt(b, c)
         :: !calm -> has[HAS(b, c)] = NONE; up[LINK(w, b)]!NACK, c
         fi;
         c = 0
       }
    /* Hands back. The lane first; what it does not take stays. */
#ifdef NO_LET_GO_IN_ONE_STEP
    :: atomic {
         alive[b] && !chosen[b] && CAN_HAND_BACK(w, b) && ANYC(CAN_LEAVE_IDLE, b) ->
         CHOOSEC(CAN_LEAVE_IDLE, b, c);
         chosen[b] = c + 1
       }
       atomic {
         nfull(laneUp[LINK(w, b)]);
         c = chosen[b] - 1;
         chosen[b] = 0;
         letGo(b, c);
         laneUp[LINK(w, b)]!c, 1;
         unsettled[LINK(w, b)]++;
         has[HAS(b, c)] = LEFT + w
       }
       atomic { up[LINK(w, b)]!HANDBACK, c; c = 0 }
#else
    :: atomic {
         alive[b] && CAN_HAND_BACK(w, b) && ANYC(IS_MINE, b) ->
         CHOOSEC(IS_MINE, b, c);
         if
         :: buffer[HAS(b, c)] == 0 -> replay[c] = 0
         :: replay[c] = 1
         fi;
         letGo(b, c);
         unsettled[LINK(w, b)]++;
         has[HAS(b, c)] = LEFT + w;
#ifdef NO_HANDBACK_LANE_FIRST
         up[LINK(w, b)]!HANDBACK, c
#else
         laneUp[LINK(w, b)]!c, 1
#endif
       }
       atomic {
         if
         :: brokerEnd[LINK(w, b)] && backendEnd[LINK(w, b)] ->
#ifdef NO_HANDBACK_LANE_FIRST
            laneUp[LINK(w, b)]!c, 1
#else
            up[LINK(w, b)]!HANDBACK, c;
            printf("backend %d writes HANDBACK for client %d to broker %d\n", b, c, w)
#endif
         :: else
         fi;
#ifdef NO_GIVER_KEEPS_UNTIL_TAKEN
         has[HAS(b, c)] = NONE;
#endif
         c = 0
       }
#endif
    /* The worker's end of control has closed, and everything it still held has been read. */
    :: atomic {
         alive[b] && backendEnd[LINK(w, b)] && !brokerEnd[LINK(w, b)] && IS_READ_TO_END(LINK(w, b)) ->
         printf("backend %d sees the end of control of broker %d\n", b, w);
         EACHC(GO_ON, LINK(w, b));
         closeSession(LINK(w, b))
       }
    :: atomic {
         alive[b] && backendEnd[LINK(w, b)] && !calm ->
         printf("backend %d closes its control to broker %d\n", b, w);
         EACHC(DROP, LINK(w, b));
         closeSession(LINK(w, b))
       }
    od
  } unless {
    d_step { !alive[b] -> c = 0; f = 0 }
  }
}

/* The app, and libuv, which reads by itself. */
proctype app(byte b) {
  byte c;
  {
end:
    do
    :: atomic {
         alive[b] && ANYC(CAN_READ, b) ->
         CHOOSEC(CAN_READ, b, c);
         taken[c]++;
         buffer[HAS(b, c)] = taken[c];
         printf("backend %d reads byte %d of client %d\n", b, taken[c], c);
         c = 0
       }
    :: atomic { alive[b] && ANYC(CAN_CONSUME, b) -> CHOOSEC(CAN_CONSUME, b, c); consume(b, c); c = 0 }
    :: atomic {
         alive[b] && !calm && ANYC(IS_MINE, b) ->
         CHOOSEC(IS_MINE, b, c);
         printf("backend %d ends client %d\n", b, c);
         has[HAS(b, c)] = NONE;
         buffer[HAS(b, c)] = 0;
         over[c] = 1;
         c = 0
       }
#if STRAYS > 0
    :: atomic {
         alive[b] && !calm && !strayed[b] && backendEnd[LINK(0, b)] && brokerEnd[LINK(0, b)] &&
         nfull(laneUp[LINK(0, b)]) && ANYC(IS_MINE, b) ->
         CHOOSEC(IS_MINE, b, c);
         printf("backend %d puts client %d on its lane, and keeps it\n", b, c);
         strayed[b] = 1;
         laneUp[LINK(0, b)]!c, 0;
         c = 0
       }
#endif
    od
  } unless {
    d_step { !alive[b] -> c = 0 }
  }
}

/* ---- Faults ---- */

#define DIES_WITH(p, c) over[c] = (owner[c] == p -> 1 : over[c])
#define FORGET(b, c) has[HAS(b, c)] = NONE; buffer[HAS(b, c)] = 0
#define FORGET_AT(w, c) at[AT(w, c)] = NOWHERE; giver[AT(w, c)] = 0

inline killWorker(w) {
  printf("broker %d is killed\n", w);
  deaths++;
  workerUp[w] = 0;
  EACHC(DIES_WITH, w + 3);
  closeLink(LINK(w, 0));
  closeLink(LINK(w, 1));
#if NW > 1
  if
  :: w == 1 -> do :: nempty(pair) -> pair?_ :: empty(pair) -> break od
  :: else
  fi;
#endif
  EACHC(FORGET_AT, w)
}

inline killBackend(b) {
  printf("backend %d is killed\n", b);
  deaths++;
  alive[b] = 0;
  EACHC(DIES_WITH, b + 1);
  EACHC(FORGET, b);
#ifdef NO_LET_GO_IN_ONE_STEP
  chosen[b] = 0;
#endif
  closeSession(LINK(0, b));
#if NW > 1
  closeSession(LINK(1, b))
#endif
}

inline register(w, b) {
  registered[LINK(w, b)] = 1;
  brokerEnd[LINK(w, b)] = 1;
  backendEnd[LINK(w, b)] = 1;
  up[LINK(w, b)]!RESUMES, 0
}

#define MAY_DIE (!calm && deaths < DEATHS)

proctype faults() {
end:
  do
  :: atomic { workerUp[0] && MAY_DIE -> killWorker(0) }
  :: atomic { alive[0] && MAY_DIE -> killBackend(0) }
  :: atomic { alive[1] && MAY_DIE -> killBackend(1) }
#if NW > 1
  :: atomic { workerUp[1] && MAY_DIE -> killWorker(1) }
  :: atomic { masterUp && MAY_DIE -> masterUp = 0; deaths++ }
  /* A reload, or a worker that died is replaced. */
  :: atomic { masterUp && !calm && !started[1] -> started[1] = 1; workerUp[1] = 1; leaving[0] = 1 }
  :: atomic { workerUp[1] && alive[0] && !registered[LINK(1, 0)] -> register(1, 0) }
  :: atomic { workerUp[1] && alive[1] && !registered[LINK(1, 1)] -> register(1, 1) }
#endif
  :: atomic { !calm -> calm = 1 }
  od
}

#ifndef EARLY
proctype clients() {
end:
  do
  :: atomic { arrived[0] < BYTES -> arrived[0]++ }
#if NC > 1
  :: atomic { arrived[1] < BYTES -> arrived[1]++ }
#endif
  od
}
#endif

#if NW > 1
#define WAITS(c) (at[AT(0, c)] == HERE || at[AT(1, c)] == HERE)
#else
#define WAITS(c) (at[AT(0, c)] == HERE)
#endif
#define IS_SOMEWHERE(x, c) assert(over[c] || has[HAS(0, c)] == MINE || has[HAS(1, c)] == MINE || WAITS(c)) /* lost silently */
#define IS_DECIDED(b, c) assert(has[HAS(b, c)] <= MINE) /* waits indefinitely */

/* When no process can take a step: each connection has an owner or has ended, and no duplicate is left. */
proctype rest() {
  atomic {
    timeout ->
    EACHC(IS_SOMEWHERE, 0);
    EACHC(IS_DECIDED, 0);
    EACHC(IS_DECIDED, 1);
    assert(!brokerEnd[0] || !backendEnd[0] || unsettled[0] == 0 || replay[0]) /* window */
  }
}

#define ARRIVE(x, c) arrived[c] = BYTES
#define ACCEPT(w, c) at[AT(w, c)] = HERE; fresh[c] = 1; owner[c] = 3

init {
  atomic {
    workerUp[0] = 1;
    started[0] = 1;
    alive[0] = 1;
    alive[1] = 1;
    register(0, 0);
    register(0, 1);
    EACHC(ACCEPT, 0);
    run link(0, 0);
    run link(0, 1);
    run service(0);
    run session(0, 0);
    run session(0, 1);
#if NW > 1
    run link(1, 0);
    run link(1, 1);
    run service(1);
    run session(1, 0);
    run session(1, 1);
#endif
    run app(0);
    run app(1);
#ifdef EARLY /* fewer states: all bytes are there from the start */
    EACHC(ARRIVE, 0);
#else
    run clients();
#endif
#ifndef OWNERS_ONLY
    run rest();
#endif
    run faults()
  }
}
