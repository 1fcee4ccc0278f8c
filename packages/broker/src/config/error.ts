/** One problem. `path` uses JavaScript notation (`listeners[0].listen`); '' is the file itself. */
export interface ConfigProblem {
  readonly path: string
  readonly message: string
}

/** The configuration is invalid. The message has one line per problem: `baton.json: listeners[0].listen: ...`. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
  readonly code = 'BATON_ERR_CONFIG'
  readonly problems: readonly ConfigProblem[]

  constructor(file: string | undefined, problems: readonly ConfigProblem[]) {
    super(problems.map((problem) => describe(file, problem)).join('\n'))
    this.problems = problems
  }
}

function describe(file: string | undefined, { path, message }: ConfigProblem): string {
  return [file ?? 'configuration', path, message].filter((part) => part !== '').join(': ')
}

/** Formats `['services', 'web', 'upstreams', 0]` as `services.web.upstreams[0]`. */
export function formatPath(path: readonly PropertyKey[]): string {
  let text = ''
  for (const key of path) {
    if (typeof key === 'number') text += `[${key}]`
    else if (/^[\w$-]+$/.test(String(key))) text += text === '' ? String(key) : `.${String(key)}`
    else text += `[${JSON.stringify(String(key))}]`
  }
  return text
}

/** The `code` of a system error (`ENOENT`); undefined for any other error. */
export function errnoOf(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined
}
