import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import { parseAllDocuments } from 'yaml'
import { filesBelow, read } from './markdown.ts'
import { cleanEnvironment, Program, root } from './process.ts'
import { signal } from './signal.ts'

export interface Container {
  readonly name: string
  readonly command: readonly string[]
  readonly restartPolicy?: string
  readonly env?: readonly { readonly name: string; readonly value: string }[]
  readonly ports?: readonly { readonly name: string; readonly containerPort: number }[]
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[]
  readonly securityContext?: { readonly runAsUser?: number }
  readonly readinessProbe?: { readonly exec: { readonly command: readonly string[] } }
  readonly lifecycle?: { readonly preStop: { readonly exec: { readonly command: readonly string[] } } }
}

export interface PodSpec {
  readonly hostNetwork?: boolean
  readonly terminationGracePeriodSeconds?: number
  readonly securityContext?: { readonly runAsUser?: number }
  readonly volumes: readonly {
    readonly name: string
    readonly configMap?: { readonly name: string }
    readonly hostPath?: { readonly path: string }
    readonly emptyDir?: object
  }[]
  readonly initContainers?: readonly Container[]
  readonly containers: readonly Container[]
}

export interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string }
  readonly data?: Readonly<Record<string, string>>
  readonly spec?: {
    readonly selector: Readonly<Record<string, string>> & { readonly matchLabels?: Record<string, string> }
    readonly ports?: readonly { readonly targetPort: string }[]
    readonly template?: {
      readonly metadata: { readonly labels: Record<string, string> }
      readonly spec: PodSpec
    }
  }
}

export const manifestFiles = filesBelow('examples/kubernetes', '.yaml')

/** @throws with the position, if it is not valid YAML */
export function manifestsOf(file: string): Manifest[] {
  return parseAllDocuments(read(file)).map((document) => {
    const [error] = [...document.errors, ...document.warnings]
    if (error !== undefined) throw error
    return document.toJS() as Manifest
  })
}

/** Containers are namespaces, which need root, and another user in them, who must be able to read this repository. */
export const canContain =
  spawnSync('unshare', ['--pid', '--fork', '--mount-proc', '--net', 'true']).status === 0 &&
  spawnSync(process.execPath, [join(root, 'packages/broker/bin/baton.js'), '--version'], {
    uid: 1000,
    env: cleanEnvironment(),
  }).status === 0

/**
 * One node, as far as a broker can tell: containers are processes with their own pid namespace and, in a pod with its own
 * network, an empty network namespace. The manifests' paths are mapped below a folder of the test.
 */
export class Node {
  readonly folder: string
  readonly #test: Test
  readonly #port: string
  readonly #adminPort: string

  /** @param folder must be accessible to user 1000 */
  constructor(t: Test, folder: string, ports: { web: number; admin: number }) {
    this.#test = t
    this.folder = folder
    this.#port = String(ports.web)
    this.#adminPort = String(ports.admin)
    symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'))
    this.put('app.js', read('examples/dist/pod.js'))
    this.put('package.json', '{ "type": "module" }')
  }

  put(path: string, text: string): void {
    const file = join(this.folder, path)
    mkdirSync(dirname(file), { recursive: true })
    writeFileSync(file, this.here(text))
  }

  /** Maps a manifest's text to this node. */
  here(text: string): string {
    return text
      .replaceAll(/(?<=^|["\s/])\/(run|etc|tmp)\//g, `${this.folder}/$1/`)
      .replaceAll('8080', this.#port)
      .replaceAll('9180', this.#adminPort)
  }

  start(spec: PodSpec, container: Container): Running {
    const uid = container.securityContext?.runAsUser ?? spec.securityContext?.runAsUser ?? 0
    const shared =
      spec.hostNetwork === true || spec.initContainers?.some(({ restartPolicy }) => restartPolicy)
    const namespaces = ['--pid', '--fork', '--mount-proc', ...(shared ? [] : ['--net'])]
    const user = ['setpriv', `--reuid=${uid}`, `--regid=${uid}`, '--clear-groups']
    const env = Object.fromEntries(
      (container.env ?? []).map(({ name, value }) => [name, this.here(value)] as const),
    )
    const command = container.command.map((word) => this.here(word))
    return new Running(
      new Program(this.#test, 'unshare', [...namespaces, ...user, ...command], {
        cwd: this.folder,
        env,
        group: true,
      }),
    )
  }

  /** Runs the probe like the kubelet. */
  isReady({ readinessProbe }: Container): boolean {
    const [command = '', ...args] = (readinessProbe?.exec.command ?? []).map((word) => this.here(word))
    return spawnSync(command, args, { cwd: this.folder, env: cleanEnvironment() }).status === 0
  }
}

export class Running {
  readonly program: Program

  constructor(program: Program) {
    this.program = program
  }

  /** Process 1 of the container. */
  get init(): number {
    const { pid } = this.program
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
    return Number(children.trim().split(' ')[0])
  }

  /** Signals process 1 of the container, like the kubelet. */
  signal(name: NodeJS.Signals): void {
    signal(this.init, name)
  }

  /** Its exit code. */
  async ended(): Promise<number | null> {
    return (await this.program.exited).code
  }
}
