import { accessSync, constants, readlinkSync, realpathSync, statSync } from 'node:fs'
import { delimiter, isAbsolute, join, resolve } from 'node:path'
import { BrokerError } from '../../errors.ts'
import { isSame, logicalFolder, throughLinks } from '../../config/working-folder.ts'

/** The running binary, also after its file was removed (proc(5)). */
const RUNNING_BINARY = '/proc/self/exe'

/** As they were named when the broker was started; what they lead to may change. */
export interface ProgramNames {
  /** Node, where it was started by a name that leads to the running binary. */
  readonly node: string | null
  /** The `baton` command. */
  readonly script: string
  /** The working folder. */
  readonly folder: string
}

export interface CommandLine {
  readonly node: string
  /** Of Node itself, and the command. */
  readonly args: readonly string[]
}

/** How a process was started, as it can tell. */
export interface ProcessFacts {
  readonly argv0: string
  /** Absolute, by Node's own account. */
  readonly script: string
  readonly execPath: string
  readonly execArgv: readonly string[]
  readonly env: NodeJS.ProcessEnv
  /** getcwd(2). */
  readonly cwd: string
}

/**
 * This program as it is installed: Node, and the `baton` command. Both may be replaced while the broker runs (a Node upgrade removes the
 * versioned binary, a `current` link moves on, an old release is removed), so both are looked up each time they are needed.
 */
export class InstalledProgram {
  readonly names: ProgramNames
  readonly #facts: ProcessFacts
  /** The command without links, as it is at the start. */
  readonly #realScript: string

  /** @param names of the program before this one, which knew how the first one was started */
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

  /** Of this process. */
  static ofProcess(names?: ProgramNames): InstalledProgram {
    const { argv0, execPath, execArgv, env } = process
    const script = resolve(process.argv[1] ?? '')
    return new InstalledProgram({ argv0, script, execPath, execArgv, env, cwd: process.cwd() }, names)
  }

  /**
   * Of a worker: the very binary that runs this process, also once it was removed. What has replaced it under its name may be half
   * installed, or another version. A removed one may lack its libraries, though, so after a failure the next one is tried.
   *
   * @param failures of workers in a row
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
   * The program that replaces this one: found by the names, and where one leads nowhere, the running one. Without links, so that the program
   * that is checked is the one that is executed.
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

  /** Where the name of the working folder leads now. When it leads nowhere the process stays where it is, unless that is gone as well. */
  enterFolder(): void {
    try {
      process.chdir(this.names.folder)
    } catch {
      this.enterExistingFolder()
    }
  }

  /** A program that is started in a folder that was removed cannot resolve a relative path. */
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

/** The name by which Node was started, if it leads to the running binary: a version manager's own program may stand in between. */
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

/** process.cwd() answers from its memory, and getcwd(2) has no such answer that Node would pass on. */
function isRemoved(): boolean {
  try {
    return readlinkSync('/proc/self/cwd').endsWith(' (deleted)')
  } catch {
    return false
  }
}
