{{/* Folders that a Java process of the engine writes to or reads, besides its data. */}}
{{- define "engine-cluster.mounts" -}}
- name: engine-files
  mountPath: /engine-files
  readOnly: true
- name: tls
  mountPath: /tls
  readOnly: true
# The folder, not one file by subPath: that would stay as it was when the pod started.
- name: token-keys
  mountPath: /keys/protocol/openid-connect
  readOnly: true
- name: tmp
  mountPath: /tmp
- name: logs
  mountPath: /usr/local/zeebe/logs
{{- end }}

{{- define "engine-cluster.scratch" -}}
- name: engine-files
  configMap:
    name: engine-files
    defaultMode: 292 # 0444
- name: tmp
  emptyDir:
    # Java unpacks its native libraries there.
    sizeLimit: 256Mi
{{- end }}

{{- define "engine-cluster.volumes" -}}
{{ include "engine-cluster.scratch" . }}
- name: logs
  emptyDir:
    sizeLimit: 64Mi
- name: tls
  secret:
    secretName: {{ include "engine-cluster.tlsSecret" . }}
    defaultMode: 288 # 0440
- name: token-keys
  configMap:
    name: {{ .Values.tokenKeys.existingConfigMap | default "token-keys" }}
    defaultMode: 292 # 0444
{{- end }}

{{/*
When the engine says that it serves, which also decides whether clients are led to it. There is no probe that restarts:
an engine that catches up or replays a long log is silent for minutes, and killing it makes it begin again. One that
died ends its container, which the kubelet sees without asking.
The kubelet asks from the pod's own node; networks let that through whatever the policies say.
*/}}
{{- define "engine-cluster.readiness" -}}
readinessProbe:
  httpGet:
    path: /actuator/health/readiness
    port: management
    scheme: HTTP
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
  successThreshold: 1
{{- end }}

{{/*
A volume can be on one node at a time: a Job beside a broker runs where that broker does. With the cluster suspended the
volume alone decides.
*/}}
{{- define "engine-cluster.besideBroker" -}}
{{- if gt (int (include "engine-cluster.replicas" .root)) .node -}}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - labelSelector:
          matchLabels:
            {{- include "engine-cluster.selector" (dict "root" .root "component" "broker") | nindent 12 }}
            apps.kubernetes.io/pod-index: {{ .node | quote }}
        topologyKey: kubernetes.io/hostname
{{- end }}
{{- end }}

{{/* "1=4503 2=17", in the partitions' order. */}}
{{- define "engine-cluster.checkpoints" -}}
{{- $pairs := list -}}
{{- range $partition, $position := .checkpoints -}}
{{- $pairs = append $pairs (printf "%s=%s" $partition $position) -}}
{{- end -}}
{{- join " " $pairs -}}
{{- end }}
