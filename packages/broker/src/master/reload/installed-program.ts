import { accessSync, constants, readlinkSync, realpathSync, statSync } from 'node:fs'
import { delimiter, isAbsolute, join, resolve } from 'node:path'
import { BrokerError } from '../../errors.ts'
import { isSame, logicalFolder, throughLinks } from '../../config/working-folder.ts'

/** The running binary, even after its file was removed (proc(5)). */
const RUNNING_BINARY = '/proc/self/exe'

/** Names as given when the broker was started. Their targets may change. */
export interface ProgramNames {
  /** Node; null unless it was started by a name that leads to the running binary. */
  readonly node: string | null
  /** The `baton` command. */
  readonly script: string
  /** The working directory. */
  readonly folder: string
}

export interface CommandLine {
  readonly node: string
  /** Node's own options, then the `baton` command. */
  readonly args: readonly string[]
}

/** How a process was started, as far as it can tell. */
export interface ProcessFacts {
  readonly argv0: string
  /** Absolute, as Node reports it. */
  readonly script: string
  readonly execPath: string
  readonly execArgv: readonly string[]
  readonly env: NodeJS.ProcessEnv
  /** getcwd(2). */
  readonly cwd: string
}

/**
 * The installed program: Node and the `baton` command. Both may be replaced while the broker runs (a Node upgrade removes the
 * versioned binary, a `current` link moves, an old release is removed), so both are looked up each time they are needed.
 */
export class InstalledProgram {
  readonly names: ProgramNames
  readonly #facts: ProcessFacts
  /** The command, with the links resolved that it had when this program started. */
  readonly #realScript: string

  /** @param names from the previous program, if any: those of the first start */
  constructor(facts: ProcessFacts, names?: ProgramNames) {
    const folder = logicalFolder(facts.env, facts.cwd)
    this.#facts = facts
    this.#realScript = realPath(facts.script)
    this.names = names ?? {
      node: nodeByName(facts, folder),
      script: throughLinks(facts.script, folder, facts.cwd),
      folder,
    }
  }

  /** For this process. */
  static ofProcess(names?: ProgramNames): InstalledProgram {
    const { argv0, execPath, execArgv, env } = process
    const script = resolve(process.argv[1] ?? '')
    return new InstalledProgram({ argv0, script, execPath, execArgv, env, cwd: process.cwd() }, names)
  }

  /**
   * Node for a worker: the binary that runs this process, even if it was removed, since its replacement may be half
   * installed, or another version. A removed binary may lack its libraries, so after a failure the next candidate is used.
   *
   * @param failures consecutive failures of workers
   */
  nodeForWorker(failures: number): string {
    const { execPath, env } = this.#facts
    const own = isSame(execPath, RUNNING_BINARY) ? execPath : RUNNING_BINARY
    const found = [own, this.names.node, inPath('node', env)].filter(
      (path) => typeof path === 'string' && isExecutable(path),
    )
    return found[failures % found.length] ?? execPath
  }

  /**
   * The program that a reload executes: found by name, or the running one where a name leads nowhere. Links are resolved, so that the
   * program that is checked is the one that is executed.
   *
   * @throws {BrokerError} BATON_ERR_PROGRAM_GONE
   */
  forReload(): CommandLine {
    const { node, script } = this.names
    const found = [script, this.#realScript].find(isFile)
    if (found === undefined) throw new BrokerError('BATON_ERR_PROGRAM_GONE', script)
    return {
      node: realPath(this.#firstNode([node, this.#facts.execPath])),
      args: [...this.#facts.execArgv, realPath(found)],
    }
  }

  /** Whether `program` is the Node and the command that run this process, by their names. */
  isRunning({ node, args }: CommandLine): boolean {
    return isSame(node, RUNNING_BINARY) && args.at(-1) === this.#realScript
  }

  /** Enters the working directory by its name. If that fails, the process stays where it is, unless that is gone as well. */
  enterFolder(): void {
    try {
      process.chdir(this.names.folder)
    } catch {
      this.enterExistingFolder()
    }
  }

  /** Leaves a working directory that was removed: a program started there cannot resolve relative paths. */
  enterExistingFolder(): void {
    if (!isRemoved()) return
    try {
      process.chdir(this.names.folder)
    } catch {
      process.chdir('/')
    }
  }

  #firstNode(preferred: readonly (string | null)[]): string {
    const found = [...preferred, RUNNING_BINARY].find((path) => path !== null && isExecutable(path))
    return found ?? inPath('node', this.#facts.env) ?? RUNNING_BINARY
  }
}

/** The name that Node was started by, if it leads to the running binary and not to a version manager's shim. */
function nodeByName({ argv0, execPath, env, cwd }: ProcessFacts, folder: string): string | null {
  const named = argv0.includes('/') ? throughLinks(resolve(cwd, argv0), folder, cwd) : inPath(argv0, env)
  return named !== undefined && named !== RUNNING_BINARY && isSame(named, execPath) ? named : null
}

function inPath(name: string, { PATH = '' }: NodeJS.ProcessEnv): string | undefined {
  return PATH.split(delimiter)
    .filter(isAbsolute)
    .map((folder) => join(folder, name))
    .find(isExecutable)
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK)
    return statSync(path).isFile()
  } catch {
    return false
  }
}

function isFile(path: string): boolean {
  return statSync(path, { throwIfNoEntry: false })?.isFile() === true
}

function realPath(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    return path
  }
}

/** Whether the working directory was removed. process.cwd() cannot tell, because it returns a cached path. */
function isRemoved(): boolean {
  try {
    return readlinkSync('/proc/self/cwd').endsWith(' (deleted)')
  } catch {
    return false
  }
}
