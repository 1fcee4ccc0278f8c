import { spawnSync } from 'node:child_process'
import { readdirSync, readlinkSync } from 'node:fs'
import type { Test } from 'tap'
import { Program } from './process.ts'

/** Namespaces need root, and a kernel with veth pairs. */
export const canNetwork =
  spawnSync('unshare', ['--net', 'ip', 'link', 'add', 'name', 'v0', 'type', 'veth', 'peer', 'name', 'v1'])
    .status === 0

/** A network namespace, which is gone with the test. */
export class Namespace {
  readonly program: Program

  private constructor(program: Program) {
    this.program = program
  }

  static async open(t: Test): Promise<Namespace> {
    const program = new Program(t, 'unshare', [
      '--net',
      'sh',
      '-c',
      'ip link set lo up && echo up && exec cat',
    ])
    await program.line((line) => line === 'up', 'up')
    return new Namespace(program)
  }

  /** The words before a command that is to run in it. */
  get enter(): string[] {
    return ['nsenter', `--net=/proc/${this.program.pid}/ns/net`]
  }

  /** Starts a program in it. */
  run(t: Test, command: readonly string[], options: ConstructorParameters<typeof Program>[3] = {}): Program {
    const [program = '', ...args] = [...this.enter, ...command]
    return new Program(t, program, args, { group: true, ...options })
  }

  /** The programs in it, without the one that keeps it. */
  processes(): number[] {
    const { pid } = this.program
    const space = spaceOf(pid)
    return readdirSync('/proc')
      .map(Number)
      .filter((each) => Number.isInteger(each) && each !== pid && spaceOf(each) === space)
  }

  /** @throws with what it has printed, if it fails */
  ip(...args: string[]): void {
    const [program = '', ...all] = [...this.enter, 'ip', ...args]
    const { status, stderr } = spawnSync(program, all, { encoding: 'utf8' })
    if (status !== 0) throw new Error(`ip ${args.join(' ')}: ${stderr}`)
  }

  /** A cable to another one. Each end gets its address, in a network of 256 addresses. */
  connect(other: Namespace, name: string, here: string, there: string): void {
    const { pid } = other.program
    this.ip('link', 'add', 'name', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pid))
    for (const [space, device, address] of [
      [this, name, here],
      [other, 'eth0', there],
    ] as const) {
      space.ip('address', 'add', `${address}/24`, 'dev', device)
      space.ip('link', 'set', device, 'up')
    }
  }
}

function spaceOf(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/ns/net`)
  } catch {
    // It has ended.
    return ''
  }
}
