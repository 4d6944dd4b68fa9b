"""The table of errors that need more than their HTTP status to be understood."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

KindName = Literal[
    "filter", "overflow", "quota", "rate_limit", "loading", "system_role", "roles", "path", "model"
]


@dataclass(frozen=True)
class Kind:
    """A kind of error.

    Attributes:
        name: What went wrong: a content filter withheld the reply, the request is too long, the
            account has no credit, a limit is reached that passes with time, the model is loading,
            it takes no system message, it wants alternating roles, or the path or the model is
            wrong.
        wordings: Regular expressions, one per line, that messages of this kind contain. Spaces are
            significant, `<...>` stands for an entry of `SHORT`, and a comment names a provider.
        codes: The codes and types by which providers name the kind, in lower case.
    """

    name: KindName
    wordings: str
    codes: str = ""

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        lines = (line.partition("  #")[0].strip() for line in self.wordings.strip().splitlines())
        pattern = "|".join(f"(?:{line})" for line in lines)
        for name, meaning in SHORT.items():
            pattern = pattern.replace(name, meaning)
        return re.compile(pattern, re.IGNORECASE)

    def matches(self, codes: Iterable[str], message: str) -> bool:
        """Return whether an error with these codes and this message is of this kind."""
        own = frozenset(self.codes.split())
        return not own.isdisjoint(codes) or self._pattern.search(message) is not None


SHORT = {
    "<asked>": r"\b(?:prompt|inputs?|request|messages?|conversation|query|sequence)\b",
    "<tokens>": r"(?<!max )(?<!output )(?<!completion )\b(?:tokens|token (?:count|limit)|length|size)\b",
    "<exceeds>": r"(?:exceed(?:s|ed|ing)?|longer than|greater than|larger than)\b",
    "<size>": r"(?:context|tokens?\b|length|\bsize|characters|window|max_\w+)",
    "<context>": r"context[ _-](?:length|size|window|limit)",
    "<quota>": r"(?<!allocated )(?<!daily )quota (?:has been |is |was )?(?:exceeded|exhausted|used up)(?! for)"
    r"|exceeded (?:your|the|its) (?!current|daily)(?:\w+ ){0,2}quota",
    "<spending>": r"(?:monthly|hard|billing|spend(?:ing)?) (?:\w+ ){0,2}",
    "<account>": r"(?:account|organi[sz]ation|subscription|plan|trial|free tier|team|project|workspace|consumer)",
    "<loading>": r"(?:load|start|warm|wak|download|pull|initiali[sz])ing",
}

KINDS: Sequence[Kind] = (
    Kind(
        "filter",
        r"""
        (?:prompt|input|output|content|message|response|reply) (?:\w+ ){1,3}(?:flagged|blocked|filtered)
        content management policy|responsible ?ai ?policy  # Azure
        content[ _-]?(?:filter\w*|moderation|policy)\b.{0,40}(?:violat|polic|block|trigger|flag)
        (?:blocked|rejected|flagged|withheld) .{0,40}(?:content|safety|moderation|guardrail|polic)
        ContentPolicyViolation  # LiteLLM
        may contain (?:inappropriate|sensitive|illegal)  # DashScope, Volcano
        considered high risk  # Moonshot
        content exists risk  # DeepSeek
        violat(?:es?|ing) (?:\S+ ){0,3}(?:usage|content|safety|polic)  # xAI, OpenAI
        (?:unsafe|harmful|prohibited|inappropriate|sensitive|flagged) (?:content|prompt|input|words?)\b
        PROHIBITED_CONTENT|block_?reason  # Gemini
        guardrail_intervened  # Bedrock
        (?:input|output) (?:new_)?sensitive  # MiniMax
        敏感|不安全|违规|不当内容  # Zhipu, Baidu, Tencent
        """,
        """
        content_filter content_filter_error contentfilter content_filtered content_moderation
        content_policy_violation contentpolicyviolationerror moderation_blocked invalid_prompt
        responsibleaipolicyviolation prohibited_content safety data_inspection_failed
        datainspectionfailed sensitivecontentdetected inputtextsensitivecontentdetected
        outputtextsensitivecontentdetected guardrail_intervened 1301 1026 1027
        """,
    ),
    Kind(
        "overflow",  # larger than what is allowed per minute, so that waiting does not help
        r"""
        request too large  # OpenAI, Groq
        extra usage is required for long context|long context beta  # Anthropic
        """,
    ),
    Kind(
        "quota",
        r"""
        exceeded your current quota(?!.*(?:retry in|try again in|ai\.google\.dev))  # not so Gemini
        <quota>(?!.*(?:retry in|try again|per.?(?:minute|second|day)))
        quota exceeded .{0,160}\blimit: 0(?![.\d])  # Gemini, where there is no free tier
        \blimit:? 0, .{0,30}\brequested  # OpenAI, where the account has no access
        \bkey (?:\w+ )?limit exceeded  # OpenRouter
        insufficient[_ ](?:account )?(?:balance|credit|fund|quota)
        (?:balance|credits?|funds?)(?: \w+){0,4} (?:is|are) (?:too low|insufficient|not enough|negative)
        (?:balance|credits?|funds?)(?: \w+){0,4} (?:is|are) (?:exhausted|depleted)
        (?:used|spent|exhausted)(?: up)? (?:all|your)(?: \w+){0,3} (?:credits?|allocation)  # xAI, Cloudflare
        (?:not enough|out of|no(?: remaining)?) (?:credits?|balance|funds)|can only afford  # OpenRouter
        free (?:tier|quota|trial)(?: \w+){0,3} (?:is|was|has been) (?:exhausted|used up)  # DashScope
        overdue balance|no resource package|arrearage|account is in good standing  # DashScope
        <account> (?:\S+ )?(?:is|was|has been|has) (?:not active|suspended|deactivated|disabled|terminated)
        <account> (?:\S+ )?(?:is|was|has been|has) (?:restricted|overdue|blocked|closed|expired)
        <spending>(?:limit|cap)\b.{0,30}(?:reached|exceeded|hit)
        (?:reached|exceeded|hit) (?:\w+ ){0,4}<spending>(?:limit|cap|credits?|quota)  # Hugging Face
        budget (?:has been|was|is) exceeded|exceeded (?:\w+ ){0,3}budget|\bover budget  # LiteLLM
        billing (?:is |has )?(?:not (?:been )?(?:active|enabled|set up)|disabled)|requires billing  # Google
        model service (?:has been )?paused  # Volcano
        余额不足|欠费|账户.{0,6}(?:停用|冻结)|无可用资源包|额度已?(?:用尽|不足|耗尽)
        """,
        """
        insufficient_quota billing_not_active billing_hard_limit_reached account_deactivated
        account_suspended access_terminated quota_exceeded insufficient_balance credits_exhausted
        insufficient_credits insufficient_funds arrearage budget_exceeded exceededbudget
        billing_error accountoverdueerror payment_required setlimitexceeded billing_disabled
        freetieronly insufficient_user_quota 1113 1008
        """,
    ),
    Kind(
        "rate_limit",  # before "overflow", because its messages mention tokens as well
        r"""
        rate.?limit|too many requests|throttl|requests? per|tokens? per min|\b[TR]P[MD]\b
        \bper[ -]?(?:second|minute|hour|day)\b|please wait|wait before
        try again (?:later|in|after)\b|retry (?:after|in)\b
        request limit reached  # Baidu
        concurren(?:cy|t)|overloaded|at capacity|(?:server|model) is (?:too )?busy
        capacity (?:\w+ )?exceeded  # Cloudflare, Groq
        限流|请求过多|并发|稍后
        """,
        """
        rate_limit_exceeded rate_limit_error rate_limit_reached_error too_many_requests
        overloaded_error engine_overloaded_error throttling throttlingexception resource_exhausted
        slow_down 1302 1305 1002 1039
        """,
    ),
    Kind(
        "overflow",
        r"""
        <asked>(?: length| body| payload| text| context| \(.{1,60}?\))?(?: is| are|:)?(?: much)? too (?:long|large|big)\b
        too many (?:input |prompt )?tokens|(?:string|array) too long  # Cohere, OpenAI
        <asked>[^.;]{0,100} <exceeds>[^;]{0,80}<size>  # SGLang, Zhipu, ds4
        <tokens>[^.;]{0,60} <exceeds>[^;]{0,60}(?:limit|max|allowed|available|\d)  # watsonx
        (?:input|prompt) ?tokens exceeded  # Bedrock
        <context>[^.;]{0,40}(?:exceed|overflow|reached|too small|full)  # MiniMax, llama.cpp
        (?:exceed(?:s|ed)?|reached)[^.;]{0,60}<context>
        ContextWindowExceeded|context the overflows|context (?:overflow|exceeded|is full)  # LiteLLM, LM Studio
        (?:token limit|maximum prompt size) exceeded
        maximum (?:context|model|sequence|prompt|input|total) length|max_model_len  # OpenAI, vLLM, xAI
        input token count|model only supports up to|max input (?:characters|tokens)  # Gemini, Vertex, Baidu
        exceeded (?:the )?model token limit  # Moonshot
        range of input length should be  # DashScope
        `inputs`.{0,40}must (?:have less than|be <=)  # TGI, Together
        should not exceed max_(?:num_tokens|seq_len|input_len)  # TensorRT-LLM
        reduce (?:the )?(?:length|size) of (?:the |your )?(?:\w+ )?(?:messages|prompt|input)  # Groq
        longer than the (?:maximum )?(?:model|context)|expected maxlength  # vLLM, Bedrock
        超长|(?:超出|超过).{0,20}(?:长度|上下文|最大|上限|限制|token)|(?:上下文|输入|长度).{0,10}(?:过长|太长|超)
        """,
        """
        context_length_exceeded exceed_context_size_error exceed_context_size context_exceeded
        context_window_exceeded model_context_window_exceeded contextwindowexceedederror
        tokens_limit_reached string_above_max_length array_above_max_length request_too_large
        prompt_too_long input_too_long model_max_prompt_tokens_exceeded 1261
        """,
    ),
    Kind(
        "loading",
        r"""
        \bmodel\b.{0,120} (?:is|are) (?:currently |still |being )*(?:<loading>|loaded|started)
        (?<!error )(?<!failed )<loading>(?: up)?(?: the| your)? (?:model|server|engine|runner)
        (?:server|engine|runner|instance|endpoint) is (?:still )?<loading>
        (?:not|isn't) (?:yet )?ready|not (?:fully )?loaded yet|cold[ -]start
        being (?:loaded|started|scaled)|scaled to zero
        """,
        "unavailable_error model_loading model_not_ready",
    ),
    Kind(
        "system_role",
        r"""
        system (?:role|message|prompt|instruction)s?(?: is| are)? (?:not |un)(?:supported|enabled|allowed)
        (?:does not|doesn't|do not|don't) support (?:the )?[`'"]?system\b  # OpenAI
        developer instruction is not (?:enabled|supported)  # Gemma at Google
        (?:unsupported|unknown|invalid|unexpected) (?:message )?role:? .{0,12}system
        \brole .?system.? (?:is )?(?:not|un)
        only .{0,20}\buser\b.{0,20}\bassistant\b.{0,20}\broles? (?:are|is) (?:supported|allowed)
        """,
    ),
    Kind("roles", r"roles must alternate|must alternate .{0,30}(?:user|roles)"),
    Kind("path", r"unexpected endpoint or method|no (?:such )?route|unknown (?:path|endpoint|url)"),
    Kind(
        "model",
        r"""
        \bmodel\b.{0,120}(?:does not exist|not found|not supported)
        is not a valid model|(?:no such|unknown|invalid) model|no models loaded
        """,
        "model_not_found invalid_model",
    ),
)
"""The kinds in order: an error is of the first one that matches."""

STATUS_OF_CODES = {
    **dict.fromkeys(
        ("invalid_request_error", "invalid_argument", "bad_request", "validation"), 400
    ),
    **dict.fromkeys(("authentication_error", "invalid_api_key", "unauthenticated"), 401),
    **dict.fromkeys(("permission_error", "permission_denied", "forbidden"), 403),
    **dict.fromkeys(("not_found_error", "not_found"), 404),
}
"""HTTP statuses by the codes that stand for them where an error comes with a status of success."""
