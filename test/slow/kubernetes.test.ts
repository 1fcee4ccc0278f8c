import { spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { run } from '../../packages/broker/dist/cli/program.js'
import { ask } from '../support/app-run.ts'
import { freePort } from '../support/free-port.ts'
import { Client } from '../support/client.ts'
import { eventually } from '../support/eventually.ts'
import { canContain, type Container, manifestFiles, manifestsOf, Node, type PodSpec } from '../support/pod.ts'
import { root, temporaryFolder } from '../support/process.ts'
import { installedSchemas } from '../../scripts/kubernetes-schemas.mjs'
import { LIMIT } from '../support/limits.ts'

// examples/kubernetes: the manifests are consistent, and their containers work in namespaces.

/** An object as it stands in a file. */
interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string }
  readonly spec?: object
}

const onlyContained = { skip: !canContain && 'needs root, and a repository that all users can read' }
const HELLO = /^Hello from process \d+\. You are 127\.0\.0\.1:\d+\.\n$/

/** The pod template with this name in this file. */
function podOf(file: string, name: string): PodSpec {
  const found = manifestsOf(`examples/kubernetes/${file}`).find(
    ({ metadata, spec }) => metadata.name === name && spec?.template !== undefined,
  )
  if (found?.spec?.template === undefined) throw new Error(`${file} has no ${name}`)
  return found.spec.template.spec
}

function configOf(file: string): string {
  const map = manifestsOf(`examples/kubernetes/${file}`).find(({ kind }) => kind === 'ConfigMap')
  return map?.data?.['baton.json'] ?? ''
}

function containerOf({ initContainers = [], containers }: PodSpec, name: string): Container {
  const found = [...initContainers, ...containers].find((each) => each.name === name)
  if (found === undefined) throw new Error(`no container ${name}`)
  return found
}

async function nodeOf(
  t: Test,
  file: string,
): Promise<{ node: Node; url: string; port: number; admin: string }> {
  const folder = temporaryFolder(t)
  chmodSync(folder, 0o755)
  const [web, admin] = [await freePort(), await freePort()]
  const node = new Node(t, folder, { web, admin })
  node.put('etc/baton/baton.json', configOf(file))
  for (const [name, mode] of [
    ['tmp', 0o1777],
    // Like an emptyDir created by the kubelet.
    ['run/baton', 0o777],
  ] as const) {
    mkdirSync(join(folder, name), { recursive: true })
    chmodSync(join(folder, name), mode)
  }
  return { node, port: web, url: `http://127.0.0.1:${web}/`, admin: `http://127.0.0.1:${admin}` }
}

/** Each probe is a new process, so the broker is polled instead until the probe will succeed. */
async function ready(admin: string, count: number): Promise<void> {
  await eventually(
    async () => (await backendsOf(admin)).filter(({ state }) => state === 'ready').length === count,
    `${count} ready backends`,
  )
}

async function backendsOf(admin: string): Promise<{ state: string; pid: number }[]> {
  const status = (await (await fetch(`${admin}/api/v1/status`)).json()) as {
    services: { backends: { state: string; pid: number }[] }[]
  }
  return status.services.flatMap(({ backends }) => backends)
}

void t.test('selectors, volumes, ports and names of the manifests fit each other', async (t) => {
  t.ok(manifestFiles.length >= 2)
  for (const file of manifestFiles) {
    const all = manifestsOf(file)
    const pods = all.flatMap(({ spec }) => spec?.template ?? [])
    for (const { apiVersion, kind, metadata, spec } of all) {
      t.ok(apiVersion && kind && metadata.name, `${file}: ${kind}`)
      if (kind === 'ConfigMap' || spec === undefined) continue
      const labels = spec.selector.matchLabels ?? spec.selector
      const selected = pods.filter((pod) =>
        Object.entries(labels).every(([key, value]) => pod.metadata.labels[key] === value),
      )
      t.equal(selected.length, 1, `${file}: ${kind} ${metadata.name} selects one kind of pod`)
      const ports = selected.flatMap((pod) =>
        [...(pod.spec.initContainers ?? []), ...pod.spec.containers].flatMap(({ ports = [] }) => ports),
      )
      for (const { targetPort } of spec.ports ?? [])
        t.ok(
          ports.some(({ name }) => name === targetPort),
          `${file}: port ${targetPort}`,
        )
    }
    for (const { spec } of pods) {
      const volumes = new Set(spec.volumes.map(({ name }) => name))
      for (const { configMap } of spec.volumes.filter((volume) => volume.configMap))
        t.ok(all.some(({ kind, metadata }) => kind === 'ConfigMap' && metadata.name === configMap?.name))
      for (const { name, volumeMounts = [] } of [...(spec.initContainers ?? []), ...spec.containers])
        for (const mount of volumeMounts) t.ok(volumes.has(mount.name), `${file}: ${name}: ${mount.name}`)
      for (const { name, command, readinessProbe, lifecycle } of [
        ...(spec.initContainers ?? []),
        ...spec.containers,
      ])
        for (const words of [command, readinessProbe?.exec.command, lifecycle?.preStop.exec.command])
          // YAML may read words as numbers or maps.
          t.notOk(
            words?.some((word: unknown) => typeof word !== 'string'),
            `${file}: ${name}: ${String(words)}`,
          )
    }
  }
})

interface Validated {
  new (data: unknown): { validate(): void }
}

/** Objections of the schemas that Kubernetes publishes; undefined if there are none. */
async function refusedBySchema(manifest: Manifest): Promise<string | undefined> {
  const file = join(
    installedSchemas(),
    'node_modules/kubernetes-models',
    manifest.apiVersion,
    `${manifest.kind}.js`,
  )
  const kinds = (await import(file)) as Record<string, Validated>
  const kind = kinds[manifest.kind]
  if (kind === undefined) return `no kind ${manifest.kind}`
  try {
    new kind(manifest).validate()
    return undefined
  } catch (error) {
    return (error as Error).message
  }
}

/** Errors of the compiler for these objects as literals of the published types: unknown and misspelt fields. */
function refusedByTypes(t: Test, manifests: readonly Manifest[]): string {
  const folder = temporaryFolder(t)
  symlinkSync(join(installedSchemas(), 'node_modules'), join(folder, 'node_modules'))
  const lines = manifests.flatMap((manifest, index) => [
    `import type { ${manifest.kind} as K${index} } from 'kubernetes-types/${manifest.apiVersion === 'v1' ? 'core/v1' : manifest.apiVersion}'`,
    `export const m${index}: K${index} = ${JSON.stringify(manifest)}`,
  ])
  writeFileSync(join(folder, 'manifests.ts'), lines.join('\n'))
  const options = '--noEmit --strict --skipLibCheck --module nodenext --moduleResolution nodenext'.split(' ')
  const compiler = join(root, 'node_modules/typescript/bin/tsc')
  const { stdout } = spawnSync(process.execPath, [compiler, ...options, 'manifests.ts'], { cwd: folder })
  return stdout.toString()
}

void t.test('the manifests are what Kubernetes publishes of its objects', { timeout: LIMIT }, async (t) => {
  const manifests = manifestFiles.flatMap((file) => manifestsOf(file) as unknown as Manifest[])
  t.ok(manifests.length >= 6)
  for (const manifest of manifests)
    t.equal(await refusedBySchema(manifest), undefined, `${manifest.kind} ${manifest.metadata.name}`)
  t.equal(refusedByTypes(t, manifests), '')

  const [service] = manifests.filter(({ kind }) => kind === 'Service') as [Manifest]
  const ports = [{ port: 'eighty' }]
  t.match(await refusedBySchema({ ...service, spec: { ...service.spec, ports } }), /port must be integer/)
  const misspelt = { ...service, spec: { ...service.spec, externalTrafficPolice: 'Local' } }
  t.match(refusedByTypes(t, [misspelt]), /externalTrafficPolice\W+ does not exist/)
})

void t.test('their configurations pass baton check', async (t) => {
  for (const file of ['sidecar.yaml', 'daemonset.yaml']) {
    const config = join(temporaryFolder(t), 'baton.json')
    writeFileSync(config, configOf(file))
    const errors: string[] = []
    const code = await run(['check', '--config', config], { out: () => {}, err: (line) => errors.push(line) })
    t.same({ code, errors }, { code: 0, errors: [] }, file)
  }
})

void t.test(
  'a sidecar: every container has its own processes',
  { timeout: LIMIT, ...onlyContained },
  async (t) => {
    const { node, url, admin } = await nodeOf(t, 'sidecar.yaml')
    const pod = podOf('sidecar.yaml', 'app')
    const [sidecar, a, b] = ['baton', 'app-a', 'app-b'].map((name) => containerOf(pod, name)) as [
      Container,
      Container,
      Container,
    ]
    t.equal(await node.start(pod, containerOf(pod, 'folder')).ended(), 0)
    const broker = node.start(pod, sidecar)
    await broker.program.message('accepting connections')
    t.notOk(node.isReady(sidecar), 'without the app the pod is not ready')
    const first = node.start(pod, a)
    const second = node.start(pod, b)
    await ready(admin, 2)
    await eventually(() => node.isReady(sidecar), 'that the pod is ready')
    t.match(
      await backendsOf(admin),
      [{ pid: 0 }, { pid: 0 }],
      'the broker cannot see processes of other containers',
    )
    t.match((await ask(url)).body, HELLO)

    first.signal('SIGKILL')
    for (let request = 0; request < 20; request++) t.match((await ask(url)).body, HELLO)
    await first.program.exited

    second.signal('SIGTERM')
    t.equal(await second.ended(), 0)
    broker.signal('SIGTERM')
    t.equal(await broker.ended(), 0)
  },
)

void t.test(
  'a DaemonSet: the app is replaced, and adopted connections outlive the pod of the broker',
  { timeout: LIMIT, ...onlyContained },
  async (t) => {
    const { node, url, port, admin } = await nodeOf(t, 'daemonset.yaml')
    const pod = podOf('daemonset.yaml', 'baton')
    const app = podOf('daemonset.yaml', 'app')
    const [container] = app.containers as [Container]
    // Like a hostPath created by the kubelet.
    chmodSync(join(node.folder, 'run/baton'), 0o755)
    t.equal(await node.start(pod, containerOf(pod, 'folder')).ended(), 0)

    const broker = node.start(pod, containerOf(pod, 'baton'))
    await broker.program.message('accepting connections')
    const old = node.start(app, container)
    await ready(admin, 1)
    await eventually(() => node.isReady(container), 'that the app is ready')
    await eventually(() => node.isReady(containerOf(pod, 'baton')), 'that the broker is ready')
    t.match((await ask(url)).body, HELLO, 'from a network namespace of its own')

    const next = node.start(app, container)
    // The new backend next to the old one.
    await ready(admin, 2)
    const client = await Client.open(t, { host: '127.0.0.1', port })
    t.match((await client.get()).body, HELLO)
    old.signal('SIGTERM')
    for (let request = 0; request < 20; request++) t.match((await ask(url)).body, HELLO)
    // Either idle in the old one or adopted by the new one: it is served in both cases.
    t.match((await client.get()).body, HELLO)
    t.equal(await old.ended(), 0)

    const lasting = await Client.open(t, { host: '127.0.0.1', port })
    t.match((await lasting.get()).body, HELLO)
    broker.signal('SIGTERM')
    t.equal(await broker.ended(), 0)
    t.match((await lasting.get()).body, HELLO, 'without a broker')
    next.signal('SIGKILL')
    await next.program.exited
  },
)
