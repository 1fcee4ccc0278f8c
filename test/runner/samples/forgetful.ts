// A test file that leaves a process and a file behind.
import { spawn } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'

spawn('sleep', ['1000'], { detached: true, stdio: 'ignore' }).unref()
writeFileSync(join(tmpdir(), 'forgotten'), '')
t.pass('it has done its work')
