# SPDX-License-Identifier: Apache-2.0
# Completion of the hearth command. Commands and flags are asked from `hearth --help`, so that they always agree.
_hearth() {
    local current=${COMP_WORDS[COMP_CWORD]} command=${COMP_WORDS[1]:-} previous=${COMP_WORDS[COMP_CWORD - 1]} words
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        words=$(hearth --help 2>/dev/null | sed -n 's/^  \([a-z]*\)  .*/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$words --help --version" -- "$current")
        return
    fi
    case $previous in
    --device) words='auto cpu cuda vulkan' ;;
    --kv) words='f16 q8 f32' ;;
    --schedule) words='cosine linear constant' ;;
    --precision) words='auto f32 bf16' ;;
    --moments) words='f32 8bit' ;;
    --targets) words='all all,output attn_q attn_k attn_v attn_output ffn_gate ffn_up ffn_down output' ;;
    --mask) words='assistant all last alpaca alpaca-lora llmtune vicuna dolly baize zh-alpaca qlora phoenix chimera wizardlm' ;;
    --form) words='auto text letters last-word' ;;
    --match) words='exact contains number strict regex f1' ;;
    --type) words='keep f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q3_k q4_k q5_k q6_k iq4_nl' ;;
    -m | --model | --fit) words=$(hearth models list --json 2>/dev/null | sed 's/},{/\n/g' | sed -n 's/.*"name":"\([^"]*\)".*/\1/p') ;;
    esac
    if [ -n "${words:-}" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
        [ "${#COMPREPLY[@]}" -gt 0 ] || mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
    fi
    if [[ $current == -* ]]; then
        words=$(hearth "$command" --help 2>/dev/null | sed -n '/^Options:/,/^Example:/s/^ .\{5\}\(--[a-z0-9-]*\).*/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
        return
    fi
    case $command in
    adapter) words='inspect import export diff merge list use off rm' ;;
    data) words='inspect import list rm' ;;
    train) words='start stop status' ;;
    eval) words='ppl loss compare choices gen' ;;
    models) words='list use rm' ;;
    people) words='list add remove' ;;
    devices) words='list revoke' ;;
    token) words='create' ;;
    conversations) words='list show export delete' ;;
    pull) words='default gemma3-270m' ;;
    esac
    if [ "$COMP_CWORD" -eq 2 ] && [ -n "${words:-}" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    else
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
    fi
}
complete -o filenames -F _hearth hearth
