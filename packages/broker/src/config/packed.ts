import { deserialize, serialize } from 'node:v8'
import type { Config } from './config.ts'
import { Secret } from './secret.ts'

/** A value for another process of this broker, in the format of `v8.serialize`: unlike JSON it keeps a Map, `undefined` and Infinity. */
export type Packed = string

/** A checked configuration for a worker, which need not load the code that checks it. Secrets are in it: it goes over the channel only. */
export function packConfig(config: Config): Packed {
  const { admin, security } = config
  return pack({
    ...config,
    admin: { ...admin, token: admin.token?.reveal() ?? null },
    security: { ...security, registrationSecret: security.registrationSecret?.reveal() ?? null },
  })
}

export function unpackConfig(packed: Packed): Config {
  const config = unpack(packed) as Config & {
    admin: { token: unknown }
    security: { registrationSecret: unknown }
  }
  const { admin, security } = config
  return {
    ...config,
    admin: { ...admin, token: secret(admin.token) },
    security: { ...security, registrationSecret: secret(security.registrationSecret) },
  }
}

/** @param value plain data */
export function pack(value: unknown): Packed {
  return serialize(value).toString('base64')
}

export function unpack(packed: Packed): unknown {
  return deserialize(Buffer.from(packed, 'base64'))
}

function secret(text: unknown): Secret | null {
  return typeof text === 'string' ? new Secret(text) : null
}
