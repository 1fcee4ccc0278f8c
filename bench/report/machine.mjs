// The machine that the figures come from.
import { spawnSync } from 'node:child_process'
import { cpus, release, totalmem } from 'node:os'
import { compilerVersion } from '../compiler.mjs'
import { found, pm2Version } from '../installed.mjs'

const GIBI = 1024 ** 3

/** A program's version output, on stdout or stderr: wrk and nginx use stderr. */
function said(name, args, pattern) {
  const path = found(name)
  if (path === undefined) return undefined
  const { stdout, stderr } = spawnSync(path, args, { encoding: 'utf8' })
  return pattern.exec(stdout + stderr)?.[1]
}

/** @returns {Record<string, string>} versions of the programs that are installed */
export function versions() {
  const all = {
    Node: process.versions.node,
    Linux: release(),
    nginx: said('nginx', ['-v'], /nginx\/(\S+)/),
    HAProxy: said('haproxy', ['-v'], /version (\S+)/),
    PM2: pm2Version(),
    ab: said('ab', ['-V'], /Version (\S+)/),
    wrk: said('wrk', ['-v'], /wrk (\S+)/),
    'C compiler': compilerVersion(),
  }
  return Object.fromEntries(Object.entries(all).filter(([, version]) => version !== undefined))
}

export function machine() {
  const processors = cpus()
  return `${processors[0]?.model.trim() ?? 'unknown'}, ${processors.length} cores, ${(totalmem() / GIBI).toFixed(0)} GiB`
}
