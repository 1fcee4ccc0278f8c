/** Rolling deploys: one service's instances replaced step by step, and taken back when the new ones are no good. */
export { Deploy, type DeployHost, type DeployPlan } from './deploy.ts'
export { type DeployProgress, type DeployResult } from './progress.ts'
export { type DeployOptions, type RunningDeploy, startDeploy, startReturn } from './rolling-deploy.ts'
