import { writeSync } from 'node:fs'
import { MFD_CLOEXEC, MFD_EXEC } from './abi.ts'
import { OwnedFd } from './descriptors.ts'
import { EINVAL } from './errno.ts'
import { lastErrno, libc } from './libc.ts'

/**
 * When Node starts, it clears the signal mask and resets all dispositions before any JavaScript runs: a signal that arrives
 * between execve and the program's first listener ends the process, blocked or not. This shared object, preloaded into the new
 * program, has one function, which overrides the C library's `pthread_sigmask`. A call whose set is SIGUSR1 alone, as Node's
 * start-up makes to set and to restore its mask, only ever blocks; other calls are unchanged. So signals blocked before
 * execve stay blocked and pending until `unblockSignals`.
 *
 *     int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) {
 *       if (set != NULL && set->bits[0] == 1 << (SIGUSR1 - 1)) how = SIG_BLOCK;
 *       return -rt_sigprocmask(how, set, old, 8);
 *     }
 *
 * Checked with Node 20, 22, 24 and 26. A version that starts differently behaves as without it.
 */
const CODE = {
  x64: [
    0x48,
    0x85,
    0xf6, //                         test rsi, rsi
    0x74,
    0x0b, //                               je   go
    0x48,
    0x81,
    0x3e,
    0x00,
    0x02,
    0x00,
    0x00, // cmp  qword [rsi], 0x200
    0x75,
    0x02, //                               jne  go
    0x31,
    0xff, //                               xor  edi, edi
    0x41,
    0xba,
    0x08,
    0x00,
    0x00,
    0x00, //   go: mov  r10d, 8
    0xb8,
    0x0e,
    0x00,
    0x00,
    0x00, //             mov  eax, 14
    0x0f,
    0x05, //                               syscall
    0xf7,
    0xd8, //                               neg  eax
    0xc3, //                                     ret
  ],
  arm64: [
    0xa1,
    0x00,
    0x00,
    0xb4, //     cbz  x1, go
    0x24,
    0x00,
    0x40,
    0xf9, //     ldr  x4, [x1]
    0x9f,
    0x00,
    0x08,
    0xf1, //     cmp  x4, #0x200
    0x41,
    0x00,
    0x00,
    0x54, //     b.ne go
    0x00,
    0x00,
    0x80,
    0x52, //     mov  w0, #0
    0x03,
    0x01,
    0x80,
    0xd2, // go: mov  x3, #8
    0xe8,
    0x10,
    0x80,
    0xd2, //     mov  x8, #135
    0x01,
    0x00,
    0x00,
    0xd4, //     svc  #0
    0xe0,
    0x03,
    0x00,
    0x4b, //     neg  w0, w0
    0xc0,
    0x03,
    0x5f,
    0xd6, //     ret
  ],
} as const

/** EM_X86_64, EM_AARCH64. */
const MACHINE = { x64: 62, arm64: 183 } as const

const NAMES = '\0pthread_sigmask\0'

/** Read by ld.so, and removed by it from the environment of a program with more privileges than its caller. */
const VARIABLE = 'LD_PRELOAD'
/** Holds the descriptor number of the memory file, which must be closed in any case. */
const NUMBER_VARIABLE = 'BATON_SIGNAL_KEEPER'

/**
 * Writes the object to a memory file and adds it to `env`; the caller must keep the descriptor across execve. Undefined if that
 * is not possible.
 */
export function preloadKeeper(
  env: Readonly<Record<string, string | undefined>>,
): { readonly file: OwnedFd; readonly env: Record<string, string | undefined> } | undefined {
  const { arch } = process
  if (arch !== 'x64' && arch !== 'arm64') return undefined
  const file = createExecutableFile('baton-signal-keeper')
  if (file === undefined) return undefined
  const object = sharedObject(arch)
  for (let at = 0; at < object.length;) at += writeSync(file.fd, object, at, object.length - at, at)
  const before = env[VARIABLE]
  const path = pathOf(file.fd)
  const preload = before === undefined ? path : `${path}:${before}`
  return { file, env: { ...env, [VARIABLE]: preload, [NUMBER_VARIABLE]: String(file.fd) } }
}

/**
 * Removes the object from `env`, so that children do not load it. Call it in the new program before it starts another one.
 *
 * @returns the descriptor number of the memory file, which the caller must close; undefined if there is none
 */
export function forgetKeeper(env: Record<string, string | undefined>): number | undefined {
  const number = env[NUMBER_VARIABLE]
  if (number === undefined) return undefined
  delete env[NUMBER_VARIABLE]
  const fd = Number(number)
  const [first, ...rest] = (env[VARIABLE] ?? '').split(':')
  if (first === pathOf(fd)) {
    if (rest.length === 0) delete env[VARIABLE]
    else env[VARIABLE] = rest.join(':')
  }
  return fd
}

function pathOf(fd: number): string {
  return `/proc/self/fd/${fd}`
}

/** MFD_EXEC exists since Linux 6.3. Returns undefined if the system forbids executable memory files. */
function createExecutableFile(name: string): OwnedFd | undefined {
  let fd = libc.memfd_create(name, MFD_CLOEXEC | MFD_EXEC)
  if (fd === -1 && lastErrno() === EINVAL) fd = libc.memfd_create(name, MFD_CLOEXEC)
  return fd === -1 ? undefined : new OwnedFd(fd)
}

const FILE_HEADER = 64
const PROGRAM_HEADER = 56
const SYMBOL = 24
const DYNAMIC = 16

/** File offsets: headers, hash table, symbols, names, code, dynamic section. */
const HASH_AT = FILE_HEADER + 4 * PROGRAM_HEADER
const SYMBOLS_AT = align(HASH_AT + 5 * 4)
const NAMES_AT = SYMBOLS_AT + 2 * SYMBOL
const CODE_AT = align(NAMES_AT + NAMES.length, 16)
const DYNAMIC_AT = align(CODE_AT + 64)
const TAGS = 6
const SIZE = DYNAMIC_AT + TAGS * DYNAMIC

/** The largest page size of both architectures. ld.so writes to the dynamic section, so it is mapped separately, after the code. */
const PAGE = 0x10000

/** Builds an ELF file that ld.so can load (elf(5)): four program headers, one symbol, no sections. */
function sharedObject(arch: keyof typeof CODE): Buffer {
  const code = CODE[arch]
  const file = Buffer.alloc(SIZE)
  const word = (at: number, value: number) => file.writeUInt32LE(value, at)
  const long = (at: number, value: number) => file.writeBigUInt64LE(BigInt(value), at)

  // ELF, 64-bit, little-endian, version 1; type 3 is a shared object.
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  file.writeUInt16LE(3, 16)
  file.writeUInt16LE(MACHINE[arch], 18)
  word(20, 1)
  long(32, FILE_HEADER)
  file.writeUInt16LE(FILE_HEADER, 52)
  file.writeUInt16LE(PROGRAM_HEADER, 54)
  file.writeUInt16LE(4, 56)
  file.writeUInt16LE(64, 58)

  const program = (index: number, type: number, flags: number, at: number, address: number, size: number) => {
    const header = FILE_HEADER + index * PROGRAM_HEADER
    word(header, type)
    word(header + 4, flags)
    long(header + 8, at)
    long(header + 16, address)
    long(header + 24, address)
    long(header + 32, size)
    long(header + 40, size)
    long(header + 48, type === PT_LOAD ? PAGE : 8)
  }
  program(0, PT_LOAD, PF_R | PF_X, 0, 0, SIZE)
  program(1, PT_LOAD, PF_R | PF_W, DYNAMIC_AT, PAGE + DYNAMIC_AT, TAGS * DYNAMIC)
  program(2, PT_DYNAMIC, PF_R | PF_W, DYNAMIC_AT, PAGE + DYNAMIC_AT, TAGS * DYNAMIC)
  // Without it, ld.so would make the program's stack executable.
  program(3, PT_GNU_STACK, PF_R | PF_W, 0, 0, 0)

  // One bucket, two symbols; symbol 0 is undefined and ends the chain.
  for (const [index, value] of [1, 2, 1, 0, 0].entries()) word(HASH_AT + 4 * index, value)
  const symbol = SYMBOLS_AT + SYMBOL
  word(symbol, 1)
  file.writeUInt8(GLOBAL_FUNCTION, symbol + 4)
  // Any section index except 0, which means undefined.
  file.writeUInt16LE(1, symbol + 6)
  long(symbol + 8, CODE_AT)
  long(symbol + 16, code.length)
  file.write(NAMES, NAMES_AT, 'latin1')
  file.set(code, CODE_AT)

  const tags = [
    [DT_HASH, HASH_AT],
    [DT_STRTAB, NAMES_AT],
    [DT_SYMTAB, SYMBOLS_AT],
    [DT_STRSZ, NAMES.length],
    [DT_SYMENT, SYMBOL],
    [0, 0],
  ] as const
  for (const [index, [tag, value]] of tags.entries()) {
    long(DYNAMIC_AT + index * DYNAMIC, tag)
    long(DYNAMIC_AT + index * DYNAMIC + 8, value)
  }
  return file
}

const PT_LOAD = 1
const PT_DYNAMIC = 2
const PT_GNU_STACK = 0x6474e551
const PF_X = 1
const PF_W = 2
const PF_R = 4
const GLOBAL_FUNCTION = 0x12
const DT_HASH = 4
const DT_STRTAB = 5
const DT_SYMTAB = 6
const DT_STRSZ = 10
const DT_SYMENT = 11

function align(at: number, to = 8): number {
  return Math.ceil(at / to) * to
}
